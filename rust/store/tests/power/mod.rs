//! A file system in memory that can refuse any step, stop at it, and lose what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use semantic_store::Files;

/// What happens at a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The system refuses this step, and goes on.
    Refused(io::ErrorKind),
    /// Half of the bytes are written before the disk is full.
    HalfWritten,
    /// The process is killed: no later step happens.
    Killed,
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Option<Vec<u8>>,
}

/// A change of a folder's names: the name, and the file it has from now on.
type Change = (PathBuf, Option<usize>);

#[derive(Debug, Default)]
struct World {
    contents: Vec<Content>,
    folders: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    /// Names that would survive a power cut, and changes that may.
    synced_names: BTreeMap<PathBuf, usize>,
    synced_folders: BTreeSet<PathBuf>,
    changes: Vec<Change>,
    steps: usize,
    fault: Option<(usize, Fault)>,
    is_dead: bool,
}

/// A file system in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Power(Arc<Mutex<World>>);

/// An open file.
#[derive(Debug)]
pub(crate) struct Open {
    content: usize,
    position: usize,
}

impl Power {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// From now on, that happens at that step.
    pub(crate) fn plan(&self, step: usize, fault: Fault) {
        let mut world = self.world();
        world.fault = Some((world.steps + step, fault));
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> usize {
        self.world().steps
    }

    /// The process starts again; the machine went on.
    pub(crate) fn restart(&self) {
        let mut world = self.world();
        (world.is_dead, world.fault) = (false, None);
    }

    /// The power is cut: of what was not synced, survives what `survives` says, step by step.
    pub(crate) fn cut(&self, mut survives: impl FnMut() -> bool) {
        let mut world = self.world();
        let changes = std::mem::take(&mut world.changes);
        for (path, file) in changes {
            if survives() {
                match file {
                    Some(file) => world.synced_names.insert(path, file),
                    None => world.synced_names.remove(&path),
                };
            }
        }
        let lost: Vec<PathBuf> = world.folders.difference(&world.synced_folders).cloned().collect();
        for folder in lost {
            if survives() {
                world.synced_folders.insert(folder);
            }
        }
        let World { folders, synced_folders, .. } = &mut *world;
        folders.clone_from(synced_folders);
        let folders = world.folders.clone();
        world.synced_names.retain(|path, _| path.parent().is_some_and(|p| folders.contains(p)));
        world.names = world.synced_names.clone();
        for content in &mut world.contents {
            if content.synced.as_ref() != Some(&content.now) {
                // Lengths and bytes reach the disk in any order.
                let mut kept = content.synced.clone().unwrap_or_default();
                if survives() {
                    kept = content.now.iter().map(|b| if survives() { *b } else { 0 }).collect();
                }
                content.now.clone_from(&kept);
                content.synced = Some(kept);
            }
        }
        (world.is_dead, world.fault) = (false, None);
    }

    /// Change a file behind everybody's back.
    pub(crate) fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let file = world.names[path];
        change(&mut world.contents[file].now);
        let now = world.contents[file].now.clone();
        world.contents[file].synced = Some(now);
    }

    /// A machine on which this folder has been for long.
    pub(crate) fn with(folder: &Path) -> Self {
        let power = Self::default();
        power.world().synced_folders.extend(folder.ancestors().map(Path::to_owned));
        power
    }

    /// All files.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.world().names.keys().cloned().collect()
    }

    /// One step: what is to happen at it.
    fn step(&self) -> io::Result<(MutexGuard<'_, World>, Option<Fault>)> {
        let mut world = self.world();
        if world.is_dead {
            return Err(io::ErrorKind::Other.into());
        }
        world.steps += 1;
        let now = world.steps;
        match world.fault.filter(|(at, _)| *at == now) {
            Some((_, Fault::Killed)) => {
                world.is_dead = true;
                Err(io::ErrorKind::Other.into())
            }
            Some((_, Fault::Refused(kind))) => Err(kind.into()),
            Some((_, fault)) => Ok((world, Some(fault))),
            None => Ok((world, None)),
        }
    }
}

impl World {
    fn set(&mut self, path: &Path, file: Option<usize>) -> Option<usize> {
        self.changes.push((path.to_owned(), file));
        match file {
            Some(file) => self.names.insert(path.to_owned(), file),
            None => self.names.remove(path),
        }
    }
}

impl Files for Power {
    type File = Open;

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let (mut world, _) = self.step()?;
        world.folders.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Open> {
        let (mut world, _) = self.step()?;
        if world.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.contents.push(Content::default());
        let content = world.contents.len() - 1;
        world.set(path, Some(content));
        Ok(Open { content, position: 0 })
    }

    fn write(&self, file: &mut Open, bytes: &[u8]) -> io::Result<()> {
        let (mut world, fault) = self.step()?;
        let half = fault == Some(Fault::HalfWritten);
        let n = if half { bytes.len() / 2 } else { bytes.len() };
        world.contents[file.content].now.extend(&bytes[..n]);
        if half { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self, file: &mut Open) -> io::Result<()> {
        let (mut world, _) = self.step()?;
        let content = &mut world.contents[file.content];
        content.synced = Some(content.now.clone());
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut world, _) = self.step()?;
        let file = *world.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        world.set(to, Some(file));
        world.set(from, None);
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let (mut world, _) = self.step()?;
        let is_here = |other: &Path| other.parent() == Some(path);
        let changes = std::mem::take(&mut world.changes);
        for (name, file) in changes {
            if !is_here(&name) {
                world.changes.push((name, file));
                continue;
            }
            match file {
                Some(file) => world.synced_names.insert(name, file),
                None => world.synced_names.remove(&name),
            };
        }
        let folders: Vec<PathBuf> = world.folders.iter().filter(|f| is_here(f)).cloned().collect();
        world.synced_folders.extend(folders);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut world, _) = self.step()?;
        world.set(path, None);
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Open> {
        let (world, _) = self.step()?;
        let content = *world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Open { content, position: 0 })
    }

    fn len(&self, file: &Open) -> io::Result<u64> {
        let (world, _) = self.step()?;
        Ok(world.contents[file.content].now.len() as u64)
    }

    fn read(&self, file: &mut Open, bytes: &mut [u8]) -> io::Result<()> {
        let (world, _) = self.step()?;
        let from = world.contents[file.content].now.get(file.position..).unwrap_or_default();
        let from = from.get(..bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(from);
        file.position += bytes.len();
        Ok(())
    }

    fn seek(&self, file: &mut Open, position: u64) -> io::Result<()> {
        drop(self.step()?);
        file.position = usize::try_from(position).unwrap();
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let (world, _) = self.step()?;
        let here = world.names.keys().filter(|name| name.parent() == Some(path));
        Ok(here.cloned().collect())
    }
}
