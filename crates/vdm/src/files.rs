//! Files that are written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of the next temporary file of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Most symbolic links that lead from one to another.
const MOST_LINKS: usize = 40;

/// Writes a file whole or not at all: to a temporary name beside it, synced, then renamed over it.
///
/// A symbolic link stays one: the file that it leads to is written.
///
/// # Errors
/// Whatever the file system says, and [`io::ErrorKind::InvalidInput`] if `path` is something other than a regular file,
/// such as a device; then `path` is as it was.
pub fn write_atomic(path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let path = &target(path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_folders(folder)?;
    if path.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no file name"));
    }
    // Not made of the file's own name, which may be as long as names can be.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".vdm-{}-{number}.tmp", std::process::id()));
    // What a killed process of the same number left behind goes first. The file is a new one: a symbolic link that someone
    // else put there would lead the bytes into another file.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // Readable too, for contents that are looked at while they are written.
    let written = File::options().read(true).write(true).create_new(true).open(&temporary).and_then(|mut file| {
        // Says to `remove_litter` that someone is writing; some file systems have no locks, and there nothing is removed.
        let _ = file.try_lock();
        content(&mut file)?;
        file.flush()?;
        file.sync_all()
    });
    if let Err(e) = written.and_then(|()| fs::rename(&temporary, path)) {
        let _ = fs::remove_file(&temporary);
        return Err(e);
    }
    // The rename itself is durable once the folder is synced.
    sync_folder(folder);
    Ok(())
}

/// Removes from a folder what [`write_atomic`] left there in processes that were killed. What another process is writing is
/// locked, on this machine and on others.
pub(crate) fn remove_litter(folder: &Path) {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in files.map(|f| f.path()).filter(|p| is_litter(p)) {
        if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a file is a temporary one of a process that is gone, or of one of this process's number: in a container, every
/// process has the same.
fn is_litter(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(rest) = name.strip_prefix(".vdm-").and_then(|name| name.strip_suffix(".tmp")) else { return false };
    let Some(process) = rest.split('-').next().and_then(|id| id.parse::<u32>().ok()) else { return false };
    let processes = Path::new("/proc");
    // Where the system does not tell which processes there are, all of others may be alive.
    let alive = if processes.join("self").exists() { processes.join(process.to_string()).exists() } else { true };
    process == std::process::id() || !alive
}

/// Brings the names in a folder to the disk; where folders cannot be opened, nothing better can be done.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Makes a folder and those that it is in, as far as they are missing, and brings the new names to the disk.
///
/// # Errors
/// Whatever the file system says.
pub fn create_folders(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    fs::create_dir_all(path)?;
    for folder in missing {
        sync_folder(folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")));
    }
    Ok(())
}

/// The file that a write to `path` is about: at the end of all symbolic links, a regular file or none yet.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if something else is there, or links lead in a circle.
pub fn target(path: &Path) -> io::Result<PathBuf> {
    let refuse = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, reason.to_string()));
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                let to = fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("")).join(to);
            }
            Ok(found) if found.is_dir() => return refuse("it is a folder; name a file"),
            Ok(found) if !found.is_file() => {
                return refuse("it is a device, a pipe or a socket, which is not replaced; name a file");
            }
            _ => return Ok(path),
        }
    }
    refuse("its symbolic links lead in a circle")
}

/// [`write_atomic`] of bytes.
///
/// # Errors
/// As [`write_atomic`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic(path, |file| file.write_all(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomic(&path, |file| {
            file.write_all(b"new, but")?;
            Err(io::Error::other("the disk is full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// In a container, every process has the same number.
    #[test]
    fn what_a_killed_process_of_the_same_number_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let next = NEXT.load(Ordering::Relaxed);
        // Other tests write at the same time, and count too.
        for number in next..next + 500 {
            fs::write(dir.path().join(format!(".vdm-{}-{number}.tmp", std::process::id())), "longer than new").unwrap();
        }
        let path = dir.path().join("a.txt");
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    /// Gigabytes of an image cache stayed for good.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_killed_processes_left_is_removed_and_what_is_being_written_is_not() {
        let dir = tempfile::tempdir().unwrap();
        // Above the largest number of a process.
        let [gone, own, other] =
            [".vdm-4194999-0.tmp".into(), format!(".vdm-{}-x.tmp", std::process::id()), "a.tmp".into()]
                .map(|name: String| dir.path().join(name));
        for file in [&gone, &own, &other] {
            fs::write(file, "left").unwrap();
        }
        let path = dir.path().join("a.txt");
        write_atomic(&path, |file| {
            remove_litter(dir.path());
            file.write_all(b"new")
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!([gone.exists(), own.exists(), other.exists()], [false, false, true]);
    }

    /// The bytes went to the file that the link leads to.
    #[cfg(unix)]
    #[test]
    fn a_link_in_place_of_the_temporary_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "mine").unwrap();
        let next = NEXT.load(Ordering::Relaxed);
        for number in next..next + 500 {
            let name = format!(".vdm-{}-{number}.tmp", std::process::id());
            std::os::unix::fs::symlink(&victim, dir.path().join(name)).unwrap();
        }
        let path = dir.path().join("a.txt");
        write_bytes(&path, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap(), path.is_symlink()), (b"new".to_vec(), false));
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
    }

    /// rmlint#763 and case 7: a device or a link was replaced by a regular file.
    #[cfg(unix)]
    #[test]
    fn links_stay_links_and_only_regular_files_are_replaced() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "old").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("deeper/new", at("dangling")).unwrap();
        for (link, file) in [("link", "file"), ("dangling", "deeper/new")] {
            write_bytes(&at(link), b"new").unwrap();
            assert!(at(link).is_symlink(), "{link}");
            assert_eq!(fs::read(at(file)).unwrap(), b"new");
        }
        symlink("/dev/null", at("null")).unwrap();
        symlink("round", at("round")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        for (path, says) in
            [(at("null"), "device"), ("/dev/null".into(), "device"), (at("round"), "circle"), (at("folder"), "folder")]
        {
            let error = write_bytes(&path, b"new").unwrap_err();
            assert!(error.to_string().contains(says), "{path:?}: {error}");
        }
        assert!(at("null").is_symlink() && at("folder").is_dir());
    }
}
