//! `TokenIds`: the token ids of a request, taken over from Python once.

use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyIndexError, PyOverflowError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PySlice, PyString, PyTuple};
use semantic_core::{Key, KeyWidth, Tokens};

use crate::errors::Class;

#[pyclass(module = "semantic._native", frozen, eq, hash, sequence)]
#[derive(Clone)]
pub(crate) struct TokenIds(pub(crate) Arc<Tokens>);

/// Prompts of more tokens than this are looked up without the GIL.
const LONG_PROMPT: usize = 1 << 16;

impl TokenIds {
    pub(crate) fn is_long(&self) -> bool {
        self.0.len() > LONG_PROMPT
    }
}

impl PartialEq for TokenIds {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl std::hash::Hash for TokenIds {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.len().hash(state);
        self.0.all().get(0).hash(state);
    }
}

#[derive(FromPyObject)]
enum Place<'py> {
    One(isize),
    Slice(Bound<'py, PySlice>),
}

#[pymethods]
impl TokenIds {
    #[new]
    #[pyo3(text_signature = "(tokens)")]
    fn new(tokens: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(tokens) = tokens.cast::<Self>() {
            return Ok(tokens.get().clone());
        }
        taken_over(tokens).map(|tokens| Self(Arc::new(tokens)))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, place: Place<'py>) -> PyResult<Bound<'py, PyAny>> {
        let len = isize::try_from(self.0.len())?;
        match place {
            Place::One(at) => {
                let at = if at < 0 { at + len } else { at };
                let id = usize::try_from(at).ok().and_then(|at| self.0.all().get(at));
                let id = id.ok_or_else(|| PyIndexError::new_err("there is no such token"))?;
                Ok(id.into_pyobject(py)?.into_any())
            }
            Place::Slice(slice) => {
                let indices = slice.indices(len)?;
                let all = self.0.all();
                let steps = 0..isize::try_from(indices.slicelength)?;
                let ids = steps.filter_map(|n| {
                    all.get(usize::try_from(indices.start + n * indices.step).ok()?)
                });
                let tokens = Self(Arc::new(ids.collect()));
                Ok(tokens.into_pyobject(py)?.into_any())
            }
        }
    }

    fn tobytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes: Vec<u8> = self.0.all().iter().flat_map(i64::to_le_bytes).collect();
        PyBytes::new(py, &bytes)
    }

    fn tolist(&self) -> Vec<i64> {
        self.0.all().iter().collect()
    }

    fn keys<'py>(&self, py: Python<'py>, root: [u8; 32]) -> Vec<Bound<'py, PyBytes>> {
        let root = Key::from_bytes(root);
        let keys = py.detach(|| root.chain(self.0.all(), KeyWidth::default()));
        keys.iter().map(|key| PyBytes::new(py, key.as_bytes())).collect()
    }

    fn __repr__(&self) -> String {
        let shown: Vec<String> = self.0.all().iter().take(4).map(|id| id.to_string()).collect();
        let more = if self.0.len() > 4 { ", …" } else { "" };
        format!("TokenIds([{}{more}], n={})", shown.join(", "), self.0.len())
    }
}

fn taken_over(tokens: &Bound<'_, PyAny>) -> PyResult<Tokens> {
    let py = tokens.py();
    if let Ok(list) = tokens.cast::<PyList>() {
        return narrow_list(list).map_or_else(|| of_tuple(&list.to_tuple()), Ok);
    }
    if let Ok(tuple) = tokens.cast::<PyTuple>() {
        return of_tuple(tuple);
    }
    if tokens.is_instance_of::<PyBytes>()
        || tokens.is_instance_of::<PyByteArray>()
        || tokens.is_instance_of::<PyString>()
    {
        let message = format!("tokens must be integers, not {}", tokens.get_type().name()?);
        return Err(Class::BlockArgumentType.bare(py, &message));
    }
    if let Some(tokens) = buffered(tokens) {
        return Ok(tokens);
    }
    let hint = tokens.len().unwrap_or(0);
    let items = tokens.try_iter().map_err(|error| no_integers(py, &error))?;
    collected(py, hint, items.map(|item| item.and_then(|item| item.extract::<i64>())))
}

/// The usual case, without an object or an allocation too many: a list of plain ints that all fit into
/// 32 bits. None for any other list, which is then read with all care.
fn narrow_list(list: &Bound<'_, PyList>) -> Option<Tokens> {
    let mut ids = Vec::with_capacity(list.len());
    for at in 0..ffi::Py_ssize_t::try_from(list.len()).ok()? {
        // SAFETY: the list is alive and we are attached. The item is borrowed from it, and exact ints
        // run no code of anybody that could change the list before the item has been read.
        let id = unsafe {
            let item = ffi::PyList_GetItem(list.as_ptr(), at);
            if item.is_null() || ffi::PyLong_CheckExact(item) == 0 {
                -1
            } else {
                ffi::PyLong_AsLong(item)
            }
        };
        let Ok(id) = u32::try_from(id) else {
            drop(PyErr::take(list.py()));
            return None;
        };
        ids.push(id);
    }
    Some(Tokens::Narrow(ids))
}

fn of_tuple(tuple: &Bound<'_, PyTuple>) -> PyResult<Tokens> {
    let ids = tuple.iter_borrowed().map(pyo3::Borrowed::extract::<i64>);
    collected(tuple.py(), tuple.len(), ids)
}

/// The ids of a one-dimensional buffer of integers, such as an array or a numpy array has. None for
/// any other, and for one of another byte order than this machine's: those are read item by item.
fn buffered(tokens: &Bound<'_, PyAny>) -> Option<Tokens> {
    fn of<T: pyo3::buffer::Element + Into<i64>>(tokens: &Bound<'_, PyAny>) -> Option<Tokens> {
        let buffer = PyBuffer::<T>::get(tokens).ok().filter(|buffer| buffer.dimensions() == 1)?;
        let foreign: &[u8] = if cfg!(target_endian = "little") { b">!" } else { b"<" };
        if buffer.format().to_bytes().first().is_some_and(|order| foreign.contains(order)) {
            return None;
        }
        if buffer.is_c_contiguous() && !buffer.buf_ptr().is_null() {
            // SAFETY: the buffer is so many aligned items of this type in a row, which its exporter
            // keeps while it is taken; we are attached, so that no Python code writes to it meanwhile.
            let ids: &[T] =
                unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.item_count()) };
            return Some(Tokens::copied(ids.iter().map(|&id| id.into())));
        }
        // With gaps between the items.
        Some(Tokens::copied(buffer.to_vec(tokens.py()).ok()?.iter().map(|&id| id.into())))
    }
    of::<i64>(tokens)
        .or_else(|| of::<i32>(tokens))
        .or_else(|| of::<u32>(tokens))
        .or_else(|| of::<u16>(tokens))
        .or_else(|| of::<i16>(tokens))
}

fn collected(
    py: Python<'_>,
    len: usize,
    ids: impl Iterator<Item = PyResult<i64>>,
) -> PyResult<Tokens> {
    // A stranger's length is a hint, not a promise.
    let mut taken = Vec::with_capacity(len.min(1 << 20));
    for id in ids {
        match id {
            Ok(id) => taken.push(id),
            Err(error) if error.is_instance_of::<PyOverflowError>(py) => {
                let message = "a token id does not fit into 64 signed bits";
                return Err(Class::BlockValidation.bare(py, message));
            }
            Err(error) => return Err(no_integers(py, &error)),
        }
    }
    Ok(Tokens::copied(taken.iter().copied()))
}

fn no_integers(py: Python<'_>, error: &PyErr) -> PyErr {
    // What the iterable itself raised is the caller's own.
    if !error.is_instance_of::<pyo3::exceptions::PyTypeError>(py) {
        return error.clone_ref(py);
    }
    let message = format!("tokens must be integers: {}", error.value(py));
    Class::BlockArgumentType.bare(py, &message)
}
