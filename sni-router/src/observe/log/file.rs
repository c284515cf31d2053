//! The file of access lines: opened to append, opened anew when it was rotated, and never a reason
//! to wait or to end.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tracing::{info, warn};

use super::LogError;

/// See the module.
pub struct AccessFile {
    /// `-` is standard output.
    path: PathBuf,
    opened: ArcSwap<Opened>,
    /// Lines that could not be written.
    lost: AtomicU64,
}

/// A file, and whether the last line in it was cut short.
struct Opened {
    file: File,
    is_torn: AtomicBool,
}

impl AccessFile {
    /// Opens the file at `path`, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        let opened = Opened::at(path).map_err(|source| LogError::Access {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            opened: ArcSwap::from_pointee(opened),
            lost: AtomicU64::new(0),
        })
    }

    /// Opens the file at the same path again, which is another one once it was rotated. If that
    /// fails, the one from before is written on.
    pub fn reopen(&self) {
        if is_stdout(&self.path) {
            return;
        }
        let path = self.path.display();
        match Opened::at(&self.path) {
            Ok(opened) => {
                self.opened.store(Arc::new(opened));
                info!(%path, "access log opened anew");
            }
            Err(error) => warn!(
                %path,
                %error,
                "the access log cannot be opened anew; the file from before is written on"
            ),
        }
    }

    /// The end of a queue of lines, each of which is written by one call.
    pub(super) fn writer(self: &Arc<Self>) -> Writer {
        Writer {
            to: Arc::clone(self),
            told: None,
        }
    }

    /// Lines that could not be written so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Says what could not be written, at the end.
    pub(super) fn sum_up(&self) {
        let lost = self.lost();
        if lost > 0 {
            let path = self.path.display();
            warn!(%path, lost, "access lines could not be written");
        }
    }
}

impl Opened {
    fn at(path: &Path) -> io::Result<Self> {
        let file = match is_stdout(path) {
            true => io::stdout().as_fd().try_clone_to_owned()?.into(),
            false => open(path)?,
        };
        Ok(Self {
            file,
            is_torn: AtomicBool::new(false),
        })
    }
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn open(path: &Path) -> io::Result<File> {
    // A pipe that nobody reads is an error, not a start that hangs.
    let at_once = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(at_once.bits() as i32)
        .open(path)?;
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
    Ok(file)
}

/// What it cannot write is lost; whoever has queued it is not told.
pub(super) struct Writer {
    to: Arc<AccessFile>,
    /// When it was last logged that lines are lost.
    told: Option<Instant>,
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let opened = self.to.opened.load();
        let mut is_torn = opened.is_torn.load(Ordering::Relaxed);
        let appended = append(&opened.file, &mut is_torn, line);
        opened.is_torn.store(is_torn, Ordering::Relaxed);
        drop(opened);
        if let Err(error) = appended {
            self.lose(&error);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writer {
    /// A full disk is full for every line: that is said once in a while.
    fn lose(&mut self, error: &io::Error) {
        let lost = self.to.lost.fetch_add(1, Ordering::Relaxed) + 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN) {
            self.told = Some(Instant::now());
            let path = self.to.path.display();
            warn!(%path, %error, lost, "access lines cannot be written");
        }
    }
}

/// Appends a line, on a new one where the last was cut short.
fn append(mut to: impl Write, is_torn: &mut bool, line: &[u8]) -> io::Result<()> {
    let bytes = match *is_torn {
        true => Cow::Owned([&b"\n"[..], line].concat()),
        false => Cow::Borrowed(line),
    };
    let mut rest = &*bytes;
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                *is_torn = rest[written - 1] != b'\n';
                rest = &rest[written..];
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// For the router and for who collects logs: lines tell who has talked to whom.
const MODE: u32 = 0o640;

const TELL_AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(file: &Arc<AccessFile>, line: &[u8]) {
        file.writer().write_all(line).unwrap();
    }

    #[test]
    fn file_is_appended_to_and_readable_by_its_group() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("access.log");
        for line in [b"one\n", b"two\n"] {
            write(&Arc::new(AccessFile::open(&path).unwrap()), line);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0, "{mode:o}");
    }

    #[test]
    fn file_is_another_one_after_it_was_rotated() {
        let scratch = tempfile::tempdir().unwrap();
        let (path, rotated) = (scratch.path().join("log"), scratch.path().join("log.1"));
        let file = Arc::new(AccessFile::open(&path).unwrap());
        write(&file, b"one\n");
        fs::rename(&path, &rotated).unwrap();
        write(&file, b"two\n");
        file.reopen();
        write(&file, b"three\n");
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn file_from_before_is_written_on_when_there_is_no_new_one() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("directory");
        fs::create_dir(&directory).unwrap();
        let file = Arc::new(AccessFile::open(&directory.join("log")).unwrap());
        let moved = scratch.path().join("moved");
        fs::rename(&directory, &moved).unwrap();
        file.reopen();
        write(&file, b"one\n");
        assert_eq!(fs::read_to_string(moved.join("log")).unwrap(), "one\n");
    }

    #[test]
    fn file_is_refused_with_its_path_when_it_cannot_be_opened() {
        let scratch = tempfile::tempdir().unwrap();
        let pipe = scratch.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        for path in [
            scratch.path().join("missing/log"),
            scratch.path().into(),
            pipe,
        ] {
            let Err(error) = AccessFile::open(&path) else {
                panic!("{} was opened", path.display());
            };
            let error = error.to_string();
            let expected = format!("--access-log: cannot open {}", path.display());
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn lines_are_lost_and_counted_when_the_disk_is_full() {
        let file = Arc::new(AccessFile::open(Path::new("/dev/full")).unwrap());
        write(&file, b"one\n");
        write(&file, b"two\n");
        assert_eq!(file.lost.load(Ordering::Relaxed), 2);
    }

    /// A disk that has room for so many bytes more.
    struct Room(usize, Vec<u8>);

    impl Write for Room {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = bytes.len().min(self.0);
            if written == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.0 -= written;
            self.1.extend_from_slice(&bytes[..written]);
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_that_was_cut_short_does_not_spoil_the_next_one() {
        let (mut disk, mut is_torn) = (Room(6, Vec::new()), false);
        append(&mut disk, &mut is_torn, b"one\n").unwrap();
        append(&mut disk, &mut is_torn, b"two\n").unwrap_err();
        append(&mut disk, &mut is_torn, b"three\n").unwrap_err();
        // Room for the end of the line only, and then for more.
        disk.0 = 1;
        append(&mut disk, &mut is_torn, b"four\n").unwrap_err();
        disk.0 = 100;
        append(&mut disk, &mut is_torn, b"five\n").unwrap();
        append(&mut disk, &mut is_torn, b"six\n").unwrap();
        assert_eq!(disk.1, b"one\ntw\nfive\nsix\n");
    }
}
