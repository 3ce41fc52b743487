//! Archives: files with the entries that a compaction removes from the log.
//!
//! An archive is a gzip file (RFC 1952) with one JSON text on each line: a header, one line for each
//! entry, and a trailer with the SHA-256 of all lines before it. Standard tools can read it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::core::event::{Commit, Entry};
use crate::core::ids::Position;

/// The value of `archive` in the header.
const FORMAT: &str = "mcp-api log";
const VERSION: u16 = 1;
/// The first bytes of every archive: gzip, deflate, no name, no time, no flags, an unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The suffix of an archive that is not complete.
const PARTIAL: &str = ".part";

/// The reason why a file is no archive, or why an archive cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive {path} cannot be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("line {line} of {path} is no line of an archive")]
    Format {
        path: PathBuf,
        line: u64,
        #[source]
        source: serde_json::Error,
    },
    #[error("{0} is no archive of this version of mcp-api")]
    Unknown(PathBuf),
    #[error("{path} is damaged: {fault}")]
    Damaged { path: PathBuf, fault: &'static str },
}

/// The first line of an archive.
#[derive(Serialize, Deserialize)]
struct Header {
    archive: String,
    v: u16,
    first: Position,
}

/// A line with an entry.
#[derive(Serialize)]
struct EntryLine<'a> {
    position: Position,
    at: u64,
    commits: &'a [Commit],
}

/// The fields of an entry that a check needs.
#[derive(Deserialize)]
struct CheckedEntry {
    position: Position,
    commits: Vec<Commit>,
}

/// The last line of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    /// The position of the last entry.
    pub last: Position,
    pub entries: u64,
    pub events: u64,
    /// The SHA-256 of all bytes before the trailer, uncompressed, in hexadecimal digits.
    pub sha256: String,
}

/// An archive that is complete and on the disk.
#[derive(Debug)]
pub struct Archive {
    pub path: PathBuf,
    pub trailer: Trailer,
}

/// Writes an archive. A writer that is dropped before it has finished removes its file.
pub struct ArchiveWriter {
    folder: PathBuf,
    partial: PathBuf,
    first: Position,
    output: GzEncoder<BufWriter<File>>,
    digest: Sha256,
    last: Position,
    entries: u64,
    events: u64,
}

impl ArchiveWriter {
    /// Creates a file for the entries from `first` on.
    ///
    /// # Errors
    /// Returns an error if the folder or the file cannot be written.
    pub fn create(folder: &Path, first: Position) -> Result<Self, ArchiveError> {
        let partial = folder.join(format!("{first}-{}{PARTIAL}", Uuid::now_v7()));
        let file = create_file(folder, &partial).map_err(|source| ArchiveError::Write {
            path: partial.clone(),
            source,
        })?;
        let output = GzBuilder::new()
            .operating_system(255)
            .write(BufWriter::new(file), Compression::default());
        let mut writer = Self {
            folder: folder.to_owned(),
            partial,
            first,
            output,
            digest: Sha256::new(),
            last: first,
            entries: 0,
            events: 0,
        };
        let archive = FORMAT.to_owned();
        let v = VERSION;
        writer.write_line(&Header { archive, v, first })?;
        Ok(writer)
    }

    /// Adds one entry. The entries must follow each other.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn add(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        self.write_line(&EntryLine {
            position: entry.position,
            at: entry.at,
            commits: &entry.commits,
        })?;
        self.last = entry.position;
        self.entries += 1;
        let events = entry.commits.iter().map(|commit| commit.events.len());
        self.events += events.sum::<usize>() as u64;
        Ok(())
    }

    /// Completes the archive: writes it to the disk, reads it again, and gives it its name.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written, or if it does not read back the same.
    pub fn finish(mut self) -> Result<Archive, ArchiveError> {
        let trailer = Trailer {
            last: self.last,
            entries: self.entries,
            events: self.events,
            sha256: hex::encode(self.digest.clone().finalize()),
        };
        self.write_line(&trailer)?;
        self.sync().map_err(|source| self.write_error(source))?;
        if read_archive(&self.partial, |_| Ok(()))? != trailer {
            return Err(ArchiveError::Damaged {
                path: self.partial.clone(),
                fault: "it differs from the entries of the log",
            });
        }
        let name = format!("{}-{}.jsonl.gz", self.first, self.last);
        let path = self.folder.join(name);
        fs::rename(&self.partial, &path)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(|source| self.write_error(source))?;
        Ok(Archive { path, trailer })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.output.try_finish()?;
        let file = self.output.get_mut();
        file.flush()?;
        file.get_ref().sync_all()
    }

    fn write_line(&mut self, line: &impl Serialize) -> Result<(), ArchiveError> {
        let text = serde_json::to_vec(line).map_err(|error| self.write_error(error.into()))?;
        for bytes in [&text[..], b"\n"] {
            self.digest.update(bytes);
            let written = self.output.write_all(bytes);
            written.map_err(|source| self.write_error(source))?;
        }
        Ok(())
    }

    fn write_error(&self, source: io::Error) -> ArchiveError {
        ArchiveError::Write {
            path: self.partial.clone(),
            source,
        }
    }
}

impl Drop for ArchiveWriter {
    fn drop(&mut self) {
        // After `finish` the file has another name.
        let _ = fs::remove_file(&self.partial);
    }
}

fn create_file(folder: &Path, partial: &Path) -> io::Result<File> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)
}

/// Removes the files that killed processes have left. A file that was written in the last `age` may
/// belong to a running process.
pub fn remove_partial_files(folder: &Path, age: std::time::Duration) {
    let Ok(files) = fs::read_dir(folder) else {
        // The folder does not exist yet.
        return;
    };
    for file in files.flatten() {
        let is_partial = file.file_name().to_string_lossy().ends_with(PARTIAL);
        let modified = file.metadata().and_then(|file| file.modified());
        let is_old = modified.is_ok_and(|at| at.elapsed().is_ok_and(|since| since >= age));
        if is_partial && is_old {
            // The next compaction tries again.
            let _ = fs::remove_file(file.path());
        }
    }
}

/// Passes every line with an entry to `on_line`, in order, and checks the whole file. Returns the
/// trailer.
///
/// # Errors
/// Returns an error if the file is no archive, if it is damaged or incomplete, or if `on_line` fails.
/// Then some lines may have been passed already.
pub fn read_archive(
    path: &Path,
    mut on_line: impl FnMut(&str) -> io::Result<()>,
) -> Result<Trailer, ArchiveError> {
    let mut lines = ArchiveLines::open(path)?;
    let header = lines.next_line()?.ok_or_else(|| lines.incomplete())?;
    let header: Header = lines.parse(&header)?;
    if header.archive != FORMAT || header.v != VERSION {
        return Err(ArchiveError::Unknown(path.to_owned()));
    }
    let mut expected = header.first;
    let mut events = 0;
    let mut entries = 0;
    loop {
        let digest = lines.digest.clone();
        let line = lines.next_line()?.ok_or_else(|| lines.incomplete())?;
        if let Ok(trailer) = serde_json::from_str::<Trailer>(&line) {
            let found = Trailer {
                last: Position(expected.0.saturating_sub(u64::from(entries > 0))),
                entries,
                events,
                sha256: hex::encode(digest.finalize()),
            };
            return lines.end(trailer, &found);
        }
        let entry: CheckedEntry = lines.parse(&line)?;
        if entry.position != expected {
            return Err(lines.damaged("an entry is missing"));
        }
        expected = expected.next();
        entries += 1;
        events += entry
            .commits
            .iter()
            .map(|commit| commit.events.len() as u64)
            .sum::<u64>();
        on_line(&line).map_err(|source| lines.read_error(source))?;
    }
}

/// The lines of an archive, and the digest of the lines so far.
struct ArchiveLines {
    path: PathBuf,
    input: BufReader<GzDecoder<BufReader<File>>>,
    digest: Sha256,
    line: u64,
}

impl ArchiveLines {
    fn open(path: &Path) -> Result<Self, ArchiveError> {
        let read_error = |source| ArchiveError::Read {
            path: path.to_owned(),
            source,
        };
        let mut file = BufReader::new(File::open(path).map_err(read_error)?);
        // The checksums do not cover the header of gzip.
        if !file
            .fill_buf()
            .map_err(read_error)?
            .starts_with(&GZIP_HEADER)
        {
            return Err(ArchiveError::Unknown(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            input: BufReader::new(GzDecoder::new(file)),
            digest: Sha256::new(),
            line: 0,
        })
    }

    /// Returns the next line without its end, or `None` at the end of the file.
    fn next_line(&mut self) -> Result<Option<String>, ArchiveError> {
        let mut line = String::new();
        let read = self.input.read_line(&mut line);
        let bytes = read.map_err(|source| self.read_error(source))?;
        if bytes == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.digest.update(line.as_bytes());
        if line.pop() != Some('\n') {
            return Err(self.incomplete());
        }
        Ok(Some(line))
    }

    fn parse<T: for<'a> Deserialize<'a>>(&self, line: &str) -> Result<T, ArchiveError> {
        serde_json::from_str(line).map_err(|source| ArchiveError::Format {
            path: self.path.clone(),
            line: self.line,
            source,
        })
    }

    /// Checks that the file ends after its trailer, and that the trailer fits its lines.
    fn end(mut self, trailer: Trailer, found: &Trailer) -> Result<Trailer, ArchiveError> {
        if self.next_line()?.is_some() {
            return Err(self.damaged("it does not end after its trailer"));
        }
        let file = self.input.get_mut().get_mut();
        let mut rest = [0];
        match file.read(&mut rest) {
            Ok(0) => {}
            Ok(_) => return Err(self.damaged("it does not end after its trailer")),
            Err(source) => return Err(self.read_error(source)),
        }
        if trailer.sha256 != found.sha256 {
            return Err(self.damaged("its checksum does not match"));
        }
        if trailer != *found {
            return Err(self.damaged("its trailer does not match its entries"));
        }
        Ok(trailer)
    }

    fn incomplete(&self) -> ArchiveError {
        self.damaged("it ends too early")
    }

    fn damaged(&self, fault: &'static str) -> ArchiveError {
        ArchiveError::Damaged {
            path: self.path.clone(),
            fault,
        }
    }

    fn read_error(&self, source: io::Error) -> ArchiveError {
        ArchiveError::Read {
            path: self.path.clone(),
            source,
        }
    }
}
