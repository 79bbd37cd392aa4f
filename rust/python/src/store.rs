//! `BlockFolder` and `BlockFile`: sealed blocks as files, their bytes straight from and to Python's
//! buffers.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use semantic_store::{
    Block, Disk, Error, Folder, KEY_BYTES, MaybeSealed, Payload, Reader, Rows, Secret,
};

use crate::errors::Class;

/// `(outer, room, first, valid, row_bytes)`: which rows of a buffer are valid.
type RowNumbers = (usize, usize, usize, usize, usize);

/// Name, element type, shape in the file, buffer and rows of a tensor.
type TensorArgument<'py> = (String, String, Vec<u64>, Bound<'py, PyAny>, RowNumbers);

/// Name, metadata and tensors of a block.
type BlockArgument<'py> =
    (String, std::collections::BTreeMap<String, String>, Vec<TensorArgument<'py>>);

fn rows((outer, room, first, valid, row_bytes): RowNumbers) -> Rows {
    Rows { outer, room, first, valid, row_bytes }
}

/// The Python exception for a refusal of the store.
#[cold]
fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error {
        Error::Damaged { .. } => Class::CacheCorruption,
        Error::Missing { .. } | Error::Io { .. } => Class::CachePersistence,
        Error::Invalid(_) => Class::BlockValidation,
    };
    let facts = pyo3::types::PyDict::new(py);
    if let Error::Io { source, .. } = error
        && let Err(broken) = facts.set_item("errno", source.raw_os_error())
    {
        return broken;
    }
    class.with(&error.to_string(), &facts)
}

/// None for a block that is not there.
fn found<T>(py: Python<'_>, result: Result<T, Error>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Missing { .. }) => Ok(None),
        Err(error) => Err(raise(py, &error)),
    }
}

/// The memory of an object that gives it as it lies, for as long as the buffer lives.
fn contiguous(object: &Bound<'_, PyAny>, is_written: bool) -> PyResult<PyUntypedBuffer> {
    let buffer = PyUntypedBuffer::get(object)?;
    if !buffer.is_c_contiguous() || (is_written && buffer.readonly()) {
        let message = "a tensor's buffer must be contiguous, and writable to be read into";
        return Err(Class::BlockValidation.bare(object.py(), message));
    }
    Ok(buffer)
}

fn bytes_of(buffer: &PyUntypedBuffer) -> &[u8] {
    if buffer.len_bytes() == 0 {
        return &[];
    }
    // SAFETY: the exporter keeps these bytes where they are while the buffer lives. Sealed blocks
    // never change, so nobody writes them meanwhile.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.len_bytes()) }
}

#[expect(clippy::mut_from_ref, reason = "the bytes are not the buffer's own")]
fn bytes_into(buffer: &PyUntypedBuffer) -> &mut [u8] {
    if buffer.len_bytes() == 0 {
        return &mut [];
    }
    // SAFETY: as above, and the memory is writable. It is the caller's promise that it is fresh:
    // nobody else reads or writes it until this call is over.
    unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast(), buffer.len_bytes()) }
}

#[pyclass(module = "semantic._native", frozen)]
pub(crate) struct StoreSecret(Secret);

#[pymethods]
impl StoreSecret {
    #[new]
    fn new(py: Python<'_>, key: &[u8]) -> PyResult<Self> {
        let key = <&[u8; KEY_BYTES]>::try_from(key).map_err(|_| {
            let message = format!("a key has {KEY_BYTES} bytes, not {}", key.len());
            Class::PoolConfiguration.bare(py, &message)
        })?;
        Ok(Self(Secret::new(key)))
    }

    fn hidden<'py>(&self, py: Python<'py>, name: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.hidden(name))
    }

    fn sealed<'py>(&self, py: Python<'py>, value: &[u8]) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.sealed(value))
    }

    fn unsealed<'py>(&self, py: Python<'py>, sealed: &[u8]) -> Option<Bound<'py, PyBytes>> {
        self.0.unsealed(sealed).map(|value| PyBytes::new(py, &value))
    }
}

#[pyclass(module = "semantic._native", frozen)]
pub(crate) struct BlockFolder(Folder<MaybeSealed<Disk>>);

#[pymethods]
impl BlockFolder {
    #[new]
    #[pyo3(signature = (path, owner, secret = None))]
    #[expect(clippy::needless_pass_by_value, reason = "a path becomes one of ours")]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        owner: &str,
        secret: Option<&StoreSecret>,
    ) -> PyResult<Self> {
        let files = MaybeSealed::new(Disk, secret.map(|secret| secret.0.clone()));
        let opened = py.detach(|| Folder::open(files, &path, owner));
        opened.map(Self).map_err(|error| raise(py, &error))
    }

    fn write(&self, py: Python<'_>, blocks: Vec<BlockArgument<'_>>) -> PyResult<Vec<u64>> {
        let mut buffers = Vec::new();
        for (.., tensors) in &blocks {
            for (.., buffer, _) in tensors {
                buffers.push(contiguous(buffer, false)?);
            }
        }
        let mut memory = buffers.iter().map(bytes_of);
        let mut whole = Vec::with_capacity(blocks.len());
        for (name, metadata, tensors) in blocks {
            let tensors = tensors.into_iter().zip(memory.by_ref());
            let tensors = tensors.map(|((name, dtype, shape, _, numbers), bytes)| {
                (name, dtype, shape, Payload { bytes, rows: rows(numbers) })
            });
            whole.push(Block { name, metadata, tensors: tensors.collect() });
        }
        py.detach(|| self.0.write(&whole)).map_err(|error| raise(py, &error))
    }

    fn open(&self, py: Python<'_>, name: &str) -> PyResult<Option<BlockFile>> {
        let reader = found(py, py.detach(|| self.0.read(name)))?;
        Ok(reader.map(|reader| BlockFile(Mutex::new(reader))))
    }

    fn remove(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        py.detach(|| self.0.remove(name)).map_err(|error| raise(py, &error))
    }

    fn set_aside(&self, py: Python<'_>, name: &str) -> PyResult<Option<PathBuf>> {
        found(py, py.detach(|| self.0.set_aside(name)))
    }

    fn names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.0.names()).map_err(|error| raise(py, &error))
    }

    #[expect(clippy::needless_pass_by_value, reason = "a list becomes a vector")]
    fn clean(&self, py: Python<'_>, running: Vec<String>) -> PyResult<usize> {
        let runs = |owner: &str| running.iter().any(|other| other == owner);
        py.detach(|| self.0.clean(runs)).map_err(|error| raise(py, &error))
    }
}

#[pyclass(module = "semantic._native", frozen)]
pub(crate) struct BlockFile(Mutex<Reader<MaybeSealed<Disk>>>);

impl BlockFile {
    fn with<T>(&self, work: impl FnOnce(&mut Reader<MaybeSealed<Disk>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl BlockFile {
    #[getter]
    fn metadata(&self) -> std::collections::BTreeMap<String, String> {
        self.with(|reader| reader.header().metadata.clone())
    }

    #[getter]
    fn tensors(&self) -> Vec<(String, String, Vec<u64>)> {
        self.with(|reader| {
            let tensors = reader.header().tensors.iter();
            tensors.map(|t| (t.name.clone(), t.dtype.clone(), t.shape.clone())).collect()
        })
    }

    #[getter]
    fn n_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(|reader| reader.bytes()).map_err(|error| raise(py, &error))
    }

    #[expect(clippy::needless_pass_by_value, reason = "a list becomes a vector")]
    fn read_into(
        &self,
        py: Python<'_>,
        memory: Vec<(Bound<'_, PyAny>, RowNumbers)>,
    ) -> PyResult<()> {
        let buffers = memory.iter().map(|(object, _)| contiguous(object, true));
        let buffers = buffers.collect::<PyResult<Vec<_>>>()?;
        let numbers = memory.iter().map(|(_, numbers)| rows(*numbers));
        let mut memory: Vec<_> = buffers.iter().map(bytes_into).zip(numbers).collect();
        py.detach(|| self.with(|reader| reader.read_into(&mut memory)))
            .map_err(|error| raise(py, &error))
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.with(Reader::verify)).map_err(|error| raise(py, &error))
    }
}
