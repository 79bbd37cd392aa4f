//! Arguments as Python gives them, checked for type before anything is locked.
//!
//! Wrong types are `BlockArgumentTypeError`, negative numbers `BlockOperationError`. A count beyond
//! 64 bits becomes the largest there is, which no budget holds: the core refuses it with numbers.
//! What builds a pool is a `PoolConfigurationError` instead.

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBool, PyInt, PyList, PySequence, PyTuple};
use semantic_core::{BlockId, Charge, Error, GroupSpec, LayerType, Reach};

use crate::errors::{Class, raise};

/// What an argument that should be a whole number turned out to be.
enum Number {
    Fits(u64),
    Huge,
    Negative,
    NotOne,
}

#[inline]
fn number(value: &Bound<'_, PyAny>) -> Number {
    // Nearly every argument is a plain int that fits; i64 is the cheapest conversion there is.
    if value.is_exact_instance_of::<PyInt>()
        && let Ok(number) = value.extract::<i64>()
        && let Ok(number) = u64::try_from(number)
    {
        return Number::Fits(number);
    }
    unusual_number(value)
}

#[cold]
fn unusual_number(value: &Bound<'_, PyAny>) -> Number {
    if !value.is_instance_of::<PyInt>() || value.is_exact_instance_of::<PyBool>() {
        return Number::NotOne;
    }
    match value.extract::<u64>() {
        Ok(number) => Number::Fits(number),
        Err(_) if value.lt(0).unwrap_or(true) => Number::Negative,
        Err(_) => Number::Huge,
    }
}

fn shown(value: &Bound<'_, PyAny>) -> String {
    value.repr().map_or_else(|_| "an unprintable object".to_owned(), |repr| repr.to_string())
}

/// A number of blocks, tokens or bytes.
#[derive(Clone, Copy)]
pub(crate) struct Count(pub(crate) u64);

impl<'py> FromPyObject<'_, 'py> for Count {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let refuse = |class: Class, wanted| {
            class.bare(value.py(), &format!("{wanted}, not {}", shown(&value)))
        };
        match number(&value) {
            Number::Fits(count) => Ok(Self(count)),
            Number::Huge => Ok(Self(u64::MAX)),
            Number::Negative => Err(refuse(Class::BlockOperation, "a count must be at least 0")),
            Number::NotOne => Err(refuse(Class::BlockArgumentType, "a count must be an integer")),
        }
    }
}

/// A number that configures a pool or a budget.
#[derive(Clone, Copy)]
pub(crate) struct Setting(pub(crate) u64);

impl<'py> FromPyObject<'_, 'py> for Setting {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match number(&value) {
            Number::Fits(setting) => Ok(Self(setting)),
            Number::Huge => Ok(Self(u64::MAX)),
            Number::Negative | Number::NotOne => {
                let message = format!(
                    "a limit must be an integer of at least 0, in bytes or arrays, not {}",
                    shown(&value)
                );
                Err(Class::PoolConfiguration.bare(value.py(), &message))
            }
        }
    }
}

/// The name of an agent, a group, a layer type or a charge.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a>(pub(crate) &'a str);

impl<'a, 'py> FromPyObject<'a, 'py> for Name<'a> {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        value.extract::<&'a str>().map(Self).map_err(|_| {
            let message = format!("a name must be a str of valid text, not {}", shown(&value));
            Class::BlockArgumentType.bare(value.py(), &message)
        })
    }
}

impl Name<'_> {
    /// The charge of that name.
    pub(crate) fn charge(self) -> Result<Charge, Error> {
        let named = |charge: &Charge| charge.as_str() == self.0;
        let unknown = || Error::UnknownCharge { name: self.0.to_owned() };
        [Charge::Live, Charge::Staging].into_iter().find(named).ok_or_else(unknown)
    }
}

/// A sequence of block ids.
pub(crate) struct Ids(pub(crate) Vec<BlockId>);

impl<'py> FromPyObject<'_, 'py> for Ids {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        // Items of a tuple are read without counting references, which abi3 makes a call of each:
        // copying a list into a tuple costs less than that, and nobody else can change the copy.
        if let Ok(list) = value.cast::<PyList>() {
            return block_ids(&list.to_tuple());
        }
        if let Ok(tuple) = value.cast::<PyTuple>() {
            return block_ids(&tuple);
        }
        let Ok(sequence) = value.cast::<PySequence>() else {
            let message = format!("ids must be a sequence of block ids, not {}", shown(&value));
            return Err(Class::BlockArgumentType.bare(value.py(), &message));
        };
        let len = sequence.len()?;
        // A stranger's length is a hint, not a promise.
        let mut ids = Vec::with_capacity(len.min(1 << 16));
        for item in sequence.try_iter()? {
            ids.push(block_id(&item?)?);
        }
        Ok(Self(ids))
    }
}

fn block_ids(tuple: &Bound<'_, PyTuple>) -> PyResult<Ids> {
    let mut ids = Vec::with_capacity(tuple.len());
    for item in tuple.iter_borrowed() {
        ids.push(block_id(&item)?);
    }
    Ok(Ids(ids))
}

fn block_id(value: &Bound<'_, PyAny>) -> PyResult<BlockId> {
    let py = value.py();
    match number(value) {
        Number::Fits(raw) => Ok(BlockId::from_raw(raw)),
        Number::Huge | Number::Negative => {
            let facts = [("block_id", value)].into_py_dict(py)?;
            let message = format!("block {value} is unknown: ids are below 2^63");
            Err(Class::BlockOperation.with(&message, &facts))
        }
        Number::NotOne => {
            let message = format!("a block id is an integer, not {}", shown(value));
            Err(Class::BlockArgumentType.bare(py, &message))
        }
    }
}

/// Layer groups as tuples `(name, layer_type, bytes_per_block, max_blocks, arrays_per_block, window,
/// keep, chunk)`.
pub(crate) struct GroupList(pub(crate) Vec<GroupSpec>);

impl<'py> FromPyObject<'_, 'py> for GroupList {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let py = value.py();
        let Ok(groups) = value.cast::<PySequence>() else {
            let message = format!("must be a sequence of layer groups, not {}", shown(&value));
            return Err(Class::PoolConfiguration.bare(py, &message));
        };
        groups.try_iter()?.map(|group| group_spec(&group?)).collect::<PyResult<_>>().map(Self)
    }
}

/// Name, layer type, bytes per block, most blocks, arrays per block, window, keep, chunk.
type GroupRow<'py> = (
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Setting,
    Option<Setting>,
    Setting,
    Option<Setting>,
    Setting,
    Option<Setting>,
);

fn group_spec(value: &Bound<'_, PyAny>) -> PyResult<GroupSpec> {
    let py = value.py();
    let not_a_group = || {
        let wanted = "(name, layer_type, bytes_per_block, max_blocks, arrays_per_block, \
                      window, keep, chunk)";
        let message = format!("a layer group is {wanted}, not {}", shown(value));
        Class::PoolConfiguration.bare(py, &message)
    };
    let tuple = value.cast::<PyTuple>().map_err(|_| not_a_group())?;
    let row: GroupRow<'_> = tuple.extract()?;
    let (name, layer_type, bytes, most, arrays, window, keep, chunk) = row;
    let text = |value: &Bound<'_, PyAny>| value.extract::<String>().map_err(|_| not_a_group());
    let layer_type: LayerType = text(&layer_type)?.parse().map_err(|error| raise(py, error))?;
    let (window, chunk) = (window.map(|window| window.0), chunk.map(|chunk| chunk.0));
    let reach = Reach::new(layer_type, window, keep.0, chunk).ok_or_else(not_a_group)?;
    Ok(GroupSpec {
        name: text(&name)?,
        reach,
        bytes_per_block: bytes.0,
        max_blocks_per_agent: most.map(|most| most.0),
        arrays_per_block: u32::try_from(arrays.0).map_err(|_| not_a_group())?,
    })
}
