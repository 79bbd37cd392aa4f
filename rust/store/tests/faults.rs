//! A block is there entirely or not at all, whatever happens at whichever step.

mod power;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use power::{Fault, Power};
use proptest::prelude::*;
use semantic_store::{Block, Damage, Error, Files, Folder, Payload, Rows};

const ROOT: &str = "/store";

/// Who writes, and who comes next.
const FIRST: &str = "1111111111111111";
const SECOND: &str = "2222222222222222";

/// The rows of a block, told apart by its number.
struct Rowful {
    number: u8,
    bytes: Vec<u8>,
}

const ROWS: Rows = Rows { outer: 2, room: 8, first: 1, valid: 5, row_bytes: 6 };

impl Rowful {
    fn new(number: u8) -> Self {
        let n = u8::try_from(ROWS.bytes_in_memory().unwrap()).unwrap();
        Self { number, bytes: (0..n).map(|at| at.wrapping_mul(31) ^ number).collect() }
    }

    fn name(&self) -> String {
        format!("{:02x}-block", self.number)
    }

    fn block(&self) -> Block<'_> {
        let payload = Payload { bytes: &self.bytes, rows: ROWS };
        let whole = Payload { bytes: &self.bytes[..9], rows: Rows::whole(9) };
        let number = ("number".to_owned(), self.number.to_string());
        Block {
            name: self.name(),
            metadata: BTreeMap::from([number]),
            tensors: vec![
                ("keys".into(), "U8".into(), vec![2, 5, 6], payload),
                ("state".into(), "U8".into(), vec![9], whole),
            ],
        }
    }

    /// What the store has of it; panics when that is anything else.
    fn is_in(&self, folder: &Folder<Power>) -> Result<bool, Error> {
        let mut reader = match folder.read(&self.name()) {
            Err(Error::Missing { .. }) => return Ok(false),
            reader => reader?,
        };
        assert_eq!(reader.header().metadata["number"], self.number.to_string());
        let (mut rows, mut state) = (vec![0; self.bytes.len()], vec![0; 9]);
        reader.read_into(&mut [(&mut rows, ROWS), (&mut state, Rows::whole(9))])?;
        for (at, (found, wrote)) in rows.iter().zip(&self.bytes).enumerate() {
            let row = at / ROWS.row_bytes % ROWS.room;
            let is_valid = (1..6).contains(&row);
            assert_eq!(*found, if is_valid { *wrote } else { 0 });
        }
        assert_eq!(state, self.bytes[..9]);
        Ok(true)
    }
}

fn opened(power: &Power, owner: &str) -> Result<Folder<Power>, Error> {
    Folder::open(power.clone(), Path::new(ROOT), owner)
}

/// Write two batches, the second of them with a fault; how many steps that were without.
fn batches(power: &Power, fault: Option<(usize, Fault)>) -> (bool, usize) {
    let folder = opened(power, FIRST).unwrap();
    let before = [Rowful::new(0x11), Rowful::new(0x12)];
    folder.write(&before.each_ref().map(Rowful::block)).unwrap();
    let steps = power.steps();
    if let Some((step, fault)) = fault {
        power.plan(step, fault);
    }
    let after = [Rowful::new(0x21), Rowful::new(0x12), Rowful::new(0x22)];
    let is_written = folder.write(&after.each_ref().map(Rowful::block)).is_ok();
    (is_written, power.steps() - steps)
}

/// After a fault: what was acknowledged is there, nothing is in part, and nothing is left over.
fn check_after(power: &Power, is_written: bool) {
    let folder = opened(power, SECOND).unwrap();
    folder.clean(|owner| owner == SECOND).unwrap();
    for number in [0x11, 0x12] {
        assert!(Rowful::new(number).is_in(&folder).unwrap(), "a block that was there is lost");
    }
    for number in [0x21, 0x22] {
        let is_here = Rowful::new(number).is_in(&folder).unwrap();
        assert!(is_here || !is_written, "an acknowledged block is lost");
    }
    let is_left = |path: &PathBuf| path.starts_with("/store/tmp");
    assert!(!power.paths().iter().any(is_left), "a temporary file is left");
    assert_eq!(folder.names().unwrap().len(), power.paths().len());
    // And the store still works.
    folder.write(&[Rowful::new(0x33).block()]).unwrap();
    assert!(Rowful::new(0x33).is_in(&folder).unwrap());
}

/// What the fault matrix of EXP-005 counts.
fn tried(fault: &str, n: usize) {
    println!("fault matrix: {fault}, {n} tried");
}

fn all_steps() -> usize {
    batches(&Power::with(Path::new(ROOT)), None).1
}

#[test]
fn b27_killed_at_any_step_nothing_is_in_part() {
    for step in 1..=all_steps() {
        let power = Power::with(Path::new(ROOT));
        let (is_written, _) = batches(&power, Some((step, Fault::Killed)));
        assert!(!is_written);
        power.restart();
        check_after(&power, false);
    }
    tried("killed at a step", all_steps());
}

#[test]
fn b30_a_refused_step_is_an_error_and_nothing_is_in_part() {
    let kinds = [ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::Other];
    let faults = kinds.map(Fault::Refused).into_iter().chain([Fault::HalfWritten]);
    for fault in faults {
        for step in 1..=all_steps() {
            let power = Power::with(Path::new(ROOT));
            let (is_written, _) = batches(&power, Some((step, fault)));
            power.restart();
            let is_left = |path: &PathBuf| path.starts_with("/store/tmp");
            assert!(!power.paths().iter().any(is_left), "what was refused is still there");
            check_after(&power, is_written);
        }
    }
    tried("a step refused, or half of its bytes written", 4 * all_steps());
}

proptest! {
    #[test]
    fn b27_after_a_power_cut_what_was_acknowledged_is_there(
        step in 1..=all_steps() + 1,
        luck in prop::collection::vec(any::<bool>(), 97),
    ) {
        let power = Power::with(Path::new(ROOT));
        let (is_written, _) = batches(&power, Some((step, Fault::Killed)));
        let mut luck = luck.into_iter().cycle();
        power.cut(|| luck.next().unwrap());
        check_after(&power, is_written);
        if CUTS.fetch_add(1, Ordering::Relaxed) + 1 == cases() {
            tried("power cut at a step, what was not synced lost at random", cases());
        }
    }
}

static CUTS: AtomicUsize = AtomicUsize::new(0);

fn cases() -> usize {
    usize::try_from(ProptestConfig::default().cases).unwrap()
}

#[test]
fn b27_after_a_power_cut_that_takes_all_or_nothing_what_was_acknowledged_is_there() {
    for step in 1..=all_steps() + 1 {
        for survives in [true, false] {
            let power = Power::with(Path::new(ROOT));
            let (is_written, _) = batches(&power, Some((step, Fault::Killed)));
            power.cut(|| survives);
            check_after(&power, is_written);
        }
    }
    tried("power cut at a step, all that was not synced lost, or nothing", 2 * (all_steps() + 1));
}

#[test]
fn b28_any_changed_bit_and_any_other_length_is_refused() {
    let power = Power::with(Path::new(ROOT));
    let folder = opened(&power, FIRST).unwrap();
    let block = Rowful::new(0x44);
    folder.write(&[block.block()]).unwrap();
    let path = power.paths().remove(0);
    let mut length = 0;
    power.change(&path, |bytes| length = bytes.len());
    let damage = |error: Error| match error {
        Error::Damaged { damage, .. } => damage,
        other => panic!("{other}"),
    };
    for at in 0..length {
        for bit in 0..8 {
            power.change(&path, |bytes| bytes[at] ^= 1 << bit);
            damage(block.is_in(&folder).unwrap_err());
            power.change(&path, |bytes| bytes[at] ^= 1 << bit);
        }
    }
    let mut whole = Vec::new();
    power.change(&path, |bytes| whole.clone_from(bytes));
    for cut in 0..length {
        power.change(&path, |bytes| bytes.truncate(cut));
        let refused = damage(block.is_in(&folder).unwrap_err());
        assert!(matches!(refused, Damage::Length { .. } | Damage::Header(_)), "{refused}");
        power.change(&path, |bytes| bytes.clone_from(&whole));
    }
    power.change(&path, |bytes| bytes.push(0));
    assert!(matches!(damage(block.is_in(&folder).unwrap_err()), Damage::Length { .. }));
    power.change(&path, |bytes| bytes.clone_from(&whole));
    assert!(block.is_in(&folder).unwrap());
    tried("a flipped bit, every one of a file", 8 * length);
    tried("a file cut short, every length", length);
}

#[test]
fn b28_what_is_set_aside_is_no_block_any_more() {
    let power = Power::with(Path::new(ROOT));
    let folder = opened(&power, FIRST).unwrap();
    let block = Rowful::new(0x55);
    folder.write(&[block.block()]).unwrap();
    let aside = folder.set_aside(&block.name()).unwrap();
    assert!(power.paths().contains(&aside));
    assert!(!block.is_in(&folder).unwrap());
    assert!(matches!(folder.set_aside(&block.name()), Err(Error::Missing { .. })));
    folder.write(&[block.block()]).unwrap();
    folder.remove(&block.name()).unwrap();
    folder.remove(&block.name()).unwrap();
    assert!(!block.is_in(&folder).unwrap());
}

#[test]
fn names_stay_inside_the_folder() {
    let folder = opened(&Power::with(Path::new(ROOT)), FIRST).unwrap();
    for name in ["", "ab", "../../etc", "zz1", "ab/cd", "ab\0c", "ABC"] {
        assert!(matches!(folder.read(name), Err(Error::Invalid(_))), "{name:?}");
    }
}

#[test]
fn a_running_owner_keeps_its_temporary_files() {
    let power = Power::with(Path::new(ROOT));
    let folder = opened(&power, FIRST).unwrap();
    power.plan(2, Fault::Killed);
    assert!(folder.write(&[Rowful::new(1).block()]).is_err());
    power.restart();
    let other = opened(&power, SECOND).unwrap();
    assert_eq!(other.clean(|owner| owner == FIRST).unwrap(), 0);
    assert_eq!(other.clean(|_| false).unwrap(), 1);
    assert!(power.paths().is_empty());
}

#[test]
fn what_no_owner_has_named_is_not_removed() {
    let power = Power::with(Path::new(ROOT));
    let folder = opened(&power, FIRST).unwrap();
    let letters = ["thesis.tex", "dead-1", SECOND, "2222222222222222-", "2222222222222222-draft"];
    let longer = ["22222222222222222-1", "222222222222222A-1", "-1", "2222222222222222-1-1"];
    for name in letters.into_iter().chain(longer) {
        power.create(&Path::new(ROOT).join("tmp").join(name)).unwrap();
    }
    let before = power.paths();
    power.create(Path::new("/store/tmp/2222222222222222-17")).unwrap();
    assert_eq!(folder.clean(|_| false).unwrap(), 1);
    assert_eq!(power.paths(), before);
}
