//! Maps of files that may be cut short under the reader.
//!
//! Reading a page of a map that its file no longer has raises SIGBUS, which ends a process. A read
//! lease keeps writers out, but only for `/proc/sys/fs/lease-break-time`, and a bad sector needs no
//! writer. So each map stands in a table, and a handler of SIGBUS puts zeros in the place of what
//! is gone and marks the map as damaged. Nobody is told at that moment: whoever reads a map asks
//! afterwards whether it is damaged, and drops what was made of it.
//!
//! A fault anywhere else is a bug, and ends the process as it would without the handler.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst, fence};

use libc::{c_int, c_void, siginfo_t};
use memmap2::{Advice, Mmap};

/// Maps that can be guarded at a time. A group of files has at most eight that are large enough to
/// be mapped, and three groups are in memory. The handler looks at all entries, so many more would
/// be slow; a file that finds no place is copied instead.
const ENTRIES: usize = 256;

/// Marks an entry that is taken and not filled in yet. No map begins in the first page.
const TAKEN: usize = 1;

/// A map that the handler knows.
struct Entry {
    /// Its first byte, `TAKEN`, or 0 where the entry is free. Written last and cleared first, so
    /// that whoever reads the same beginning before and after a length has read a pair that belongs
    /// together.
    start: AtomicUsize,
    len: AtomicUsize,
    damaged: AtomicBool,
}

static TABLE: [Entry; ENTRIES] = [const {
    Entry {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        damaged: AtomicBool::new(false),
    }
}; ENTRIES];

/// Bytes of a page. Asked for beforehand, since asking is not safe in a signal handler.
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// A map of a file.
#[derive(Debug)]
pub(super) struct Mapping {
    map: Mmap,
    /// `None` for a private copy that found no place in the table: nobody can cut it short.
    entry: Option<&'static Entry>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("damaged", &self.damaged)
            .finish_non_exhaustive()
    }
}

impl Mapping {
    /// Maps a file that others may have; `None` if the table is full.
    pub(super) fn shared(file: &File) -> io::Result<Option<Self>> {
        let mapping = Self::new(file)?;
        Ok(mapping.entry.is_some().then_some(mapping))
    }

    /// Maps a file without a name that only this process has. Where the table is full it is not
    /// guarded: only a failing disk could harm it.
    pub(super) fn private(file: &File) -> io::Result<Self> {
        Self::new(file)
    }

    fn new(file: &File) -> io::Result<Self> {
        guard_against_bus_errors();
        // SAFETY: what a map needs is that its bytes stay: that the pages exist, and that they do
        // not change while a reference to them is used. The first is the handler's business. The
        // second no process can force upon others; a lease makes a change rare, and the file's
        // size and time show it. What follows from it is bounded by who reads the bytes in place:
        // hashing, cutting and inflating, which index slices with checks and derive no `str` or
        // other unchecked claim from them. What does derive such claims, the parser, gets
        // a private copy that was compared afterwards (`Content::stable`).
        let map = unsafe { Mmap::map(file)? };
        map.advise(Advice::Sequential)?;
        let entry = enter(map.as_ptr() as usize, map.len());
        Ok(Self { map, entry })
    }

    /// Whether zeros stand in the place of bytes that are gone.
    pub(super) fn is_damaged(&self) -> bool {
        // What was read before the question was read before the answer.
        fence(SeqCst);
        self.entry.is_some_and(|entry| entry.damaged.load(SeqCst))
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapping {
    /// The entry goes first, then the map: the handler must not write over what comes there next.
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            entry.start.store(0, SeqCst);
        }
    }
}

fn enter(start: usize, len: usize) -> Option<&'static Entry> {
    let take = |entry: &&Entry| {
        let taken = entry.start.compare_exchange(0, TAKEN, SeqCst, SeqCst);
        taken.is_ok()
    };
    let entry = TABLE.iter().find(take)?;
    entry.damaged.store(false, SeqCst);
    entry.len.store(len, SeqCst);
    entry.start.store(start, SeqCst);
    Some(entry)
}

/// The map that holds an address, and where in memory it is.
fn holder(address: usize) -> Option<(&'static Entry, Range<usize>)> {
    TABLE.iter().find_map(|entry| {
        let start = entry.start.load(SeqCst);
        let len = entry.len.load(SeqCst);
        let is_one = start > TAKEN && entry.start.load(SeqCst) == start;
        let range = start..start.saturating_add(len);
        (is_one && range.contains(&address)).then_some((entry, range))
    })
}

fn guard_against_bus_errors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: sysconf reads a constant of the system. The action is all zeros, which is a valid
        // value of each of its fields, before its fields are set; both pointers are to live values
        // or null; and the handler does only what a signal handler may (see there).
        unsafe {
            if let Ok(page) = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)) {
                PAGE.store(page, SeqCst);
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    });
}

/// Handles SIGBUS. It may interrupt any code, so it takes no lock, allocates nothing, and calls
/// nothing but plain system calls; it reads atomics and leaves `errno` as it was.
extern "C" fn on_bus_error(_signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t, and for SIGBUS the address is
    // the field of the union that is set (what a process has sent is told apart by its code).
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let from_kernel = code > 0;
    if from_kernel && let Some((entry, map)) = holder(address) {
        // Before the zeros: whoever reads a zero finds the mark as well.
        entry.damaged.store(true, SeqCst);
        if zeros_from(address, map.end) {
            return;
        }
    }
    // SAFETY: signal and raise are safe in a handler. After the return a fault of ours happens
    // again, now with the default action; a signal that was sent is sent again.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        if !from_kernel {
            libc::raise(libc::SIGBUS);
        }
    }
}

/// Puts zeros in the place of the page of `address` and of all that follow it in its map: a file
/// that was cut short lacks all of them, and one by one they would be a signal each.
fn zeros_from(address: usize, end: usize) -> bool {
    let page = address & !(PAGE.load(SeqCst) - 1);
    // SAFETY: the pages from `page` to `end` belong to a map in the table. It stays there, and no
    // other is in its place, until this handler returns: the thread that it interrupted was
    // reading the map, so it holds a reference to it, and a map leaves the table only when it is dropped.
    // New pages over old ones of a map that is only ever read change no byte that a safe
    // reader could still claim to know, since it is marked as damaged. A pair of a start and a length
    // that do not belong together is never returned by `holder`. errno is this thread's own.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let placed = libc::mmap(
            page as *mut c_void,
            end - page,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        *errno = before;
        placed != libc::MAP_FAILED
    }
}

/// Makes a page of a map unreadable, as a bad sector does: reading it raises SIGBUS, and nobody has
/// changed the file. What stands there is a page of a file that has none.
#[cfg(test)]
pub(super) fn lose_page(map: &[u8], at: usize) {
    use std::os::fd::AsRawFd;
    let empty = tempfile::tempfile().unwrap();
    let page = PAGE.load(SeqCst);
    let start = (map[at..].as_ptr() as usize) & !(page - 1);
    // SAFETY: the page belongs to a map that is borrowed, and the handler guards it as before.
    let placed = unsafe {
        libc::mmap(
            start as *mut c_void,
            page,
            libc::PROT_READ,
            libc::MAP_SHARED | libc::MAP_FIXED,
            empty.as_raw_fd(),
            0,
        )
    };
    assert_ne!(placed, libc::MAP_FAILED);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A multiple of every page size that Linux has.
    const PAGE: usize = 64 * 1024;
    const PAGES: usize = PAGE * 16;

    fn file(bytes: usize) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes as u64).unwrap();
        file
    }

    #[test]
    fn what_is_cut_off_reads_as_zeros_and_is_marked() {
        let (cut, whole) = (file(PAGES), file(PAGES));
        std::os::unix::fs::FileExt::write_all_at(&cut, &vec![7; PAGES], 0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&whole, &vec![7; PAGES], 0).unwrap();
        let mapping = Mapping::shared(&cut).unwrap().unwrap();
        let other = Mapping::shared(&whole).unwrap().unwrap();
        assert_eq!((mapping[PAGES - 1], mapping.is_damaged()), (7, false));
        cut.set_len(PAGE as u64 * 2).unwrap();
        assert_eq!((mapping[PAGE * 5], mapping.is_damaged()), (0, true));
        assert_eq!(mapping[PAGE * 2 - 1], 7, "what is there is left as it is");
        cut.set_len(0).unwrap();
        assert!(mapping.iter().all(|byte| *byte == 0));
        assert!(!other.is_damaged());
        drop(mapping);
        // The entry is used again, as new.
        assert!(!Mapping::shared(&whole).unwrap().unwrap().is_damaged());
        assert!(other.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn many_threads_may_meet_the_end_at_once() {
        let file = file(PAGES);
        for _ in 0..50 {
            file.set_len(PAGES as u64).unwrap();
            let mapping = Mapping::shared(&file).unwrap().unwrap();
            file.set_len(1).unwrap();
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let mapping = &mapping;
                    scope.spawn(move || {
                        let pages = mapping.chunks(PAGE).skip(1 + thread).rev();
                        assert_eq!(pages.map(|page| u32::from(page[9])).sum::<u32>(), 0);
                        assert!(mapping.is_damaged());
                    });
                }
            });
        }
    }

    /// Runs itself as a process that meets a bus error outside of the table, and one that is sent
    /// the signal.
    #[test]
    fn any_other_bus_error_ends_the_process() {
        const HOW: &str = "LEMONADE_TEST_BUS_ERROR";
        const NAME: &str = "content::mapping::tests::any_other_bus_error_ends_the_process";
        match std::env::var(HOW).as_deref() {
            Ok("stray") => {
                let file = file(PAGES);
                guard_against_bus_errors();
                // SAFETY: none, on purpose: this process is to die of it.
                let map = unsafe { Mmap::map(&file).unwrap() };
                file.set_len(0).unwrap();
                std::hint::black_box(map[PAGE]);
            }
            Ok("sent") => {
                guard_against_bus_errors();
                // SAFETY: raise takes a number.
                unsafe { libc::raise(libc::SIGBUS) };
            }
            _ => {
                use std::os::unix::process::ExitStatusExt;
                for how in ["stray", "sent"] {
                    let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
                    itself.args(["--exact", NAME]).env(HOW, how);
                    let status = itself.output().unwrap().status;
                    assert_eq!(status.signal(), Some(libc::SIGBUS), "{how}: {status}");
                }
            }
        }
    }
}
