//! Maps of files that may be truncated while they are read.
//!
//! Reading a page of a map raises SIGBUS if the file has lost the page or the device does not
//! return it, and SIGBUS ends a process. So each map is on a list, and a handler of SIGBUS replaces
//! the lost pages of a map by zeros and marks the map as damaged. The reader of a map checks the
//! mark afterwards, and drops its result if the map is damaged.
//!
//! Any other SIGBUS goes to the handler that was installed before, or ends the process as it would
//! without this module.

use std::fs::File;
use std::io;
use std::iter::successors;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst, fence};
use std::sync::{Once, OnceLock};

use libc::{c_int, c_void, siginfo_t};
use memmap2::{Advice, Mmap};

/// Marks an entry that is taken and not yet filled in. No map has this address.
const TAKEN: usize = 1;

/// An entry of the list of maps, which the handler reads. Entries are reused and never freed, so
/// the list is as long as the most maps that existed at the same time: about one for each core.
struct Entry {
    /// Address of the map, `TAKEN`, or 0 if the entry is free. Written last and cleared first, so
    /// that a reader which finds the same address before and after it reads `len` has the length of
    /// this map.
    start: AtomicUsize,
    /// Length of the map in bytes.
    len: AtomicUsize,
    damaged: AtomicBool,
    next: OnceLock<&'static Entry>,
}

static FIRST: Entry = Entry::free();

impl Entry {
    const fn free() -> Self {
        Self {
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            damaged: AtomicBool::new(false),
            next: OnceLock::new(),
        }
    }

    fn take(&self) -> bool {
        let taken = self.start.compare_exchange(0, TAKEN, SeqCst, SeqCst);
        taken.is_ok()
    }
}

/// A map of a file.
pub(super) struct Mapping {
    map: Mmap,
    entry: &'static Entry,
}

impl Mapping {
    pub(super) fn new(file: &File) -> io::Result<Self> {
        handle_bus_errors();
        // SAFETY: a map requires that its pages exist, and that its bytes do not change while a
        // reference to them is used. The handler provides the first. The second cannot be enforced
        // on other processes: a read lease makes a change rare, and the size and mtime of the file
        // show it afterwards. Until then, a change does no harm to the code that reads the map
        // (hashing, cutting, inflating): it indexes slices with bounds checks, and keeps no `str`
        // whose bytes could stop being UTF-8. The parser, which does, reads bytes that `read` has
        // copied.
        let map = unsafe { Mmap::map(file)? };
        map.advise(Advice::Sequential)?;
        let entry = enter(map.as_ptr() as usize, map.len());
        Ok(Self { map, entry })
    }

    /// Whether some bytes of the map that were read are zeros in place of lost bytes.
    pub(super) fn is_damaged(&self) -> bool {
        // Reads of the map before this call must not be reordered behind it.
        fence(SeqCst);
        self.entry.damaged.load(SeqCst)
    }
}

impl std::ops::Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for Mapping {
    /// Clears the entry before the map ends, so that the handler never replaces pages that the
    /// system places at the same address later.
    fn drop(&mut self) {
        self.entry.start.store(0, SeqCst);
    }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    successors(Some(&FIRST), |entry| entry.next.get().copied())
}

fn enter(start: usize, len: usize) -> &'static Entry {
    let mut entry = &FIRST;
    while !entry.take() {
        let one_more = || &*Box::leak(Box::new(Entry::free()));
        entry = entry.next.get_or_init(one_more);
    }
    entry.damaged.store(false, SeqCst);
    entry.len.store(len, SeqCst);
    entry.start.store(start, SeqCst);
    entry
}

/// The map that holds an address, and the addresses of that map.
fn holder(address: usize) -> Option<(&'static Entry, Range<usize>)> {
    entries().find_map(|entry| {
        let start = entry.start.load(SeqCst);
        let len = entry.len.load(SeqCst);
        let is_one = start > TAKEN && entry.start.load(SeqCst) == start;
        let range = start..start.saturating_add(len);
        (is_one && range.contains(&address)).then_some((entry, range))
    })
}

/// Values that the handler needs and cannot read itself, since few calls are safe in a handler.
struct Before {
    /// The action on SIGBUS before this module installed its handler.
    action: libc::sigaction,
    /// Bytes of a page.
    page: usize,
}

static BEFORE: OnceLock<Before> = OnceLock::new();

/// Installs the handler, once for the process.
fn handle_bus_errors() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: sysconf reads a constant of the system. An action of zeros is a valid value, the
        // pointers are null or point to live values, and the handler makes only calls that are safe
        // in a handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let asked = libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut action);
            assert_eq!(asked, 0, "SIGBUS has an action");
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
            // Set before the handler is installed, which reads it.
            BEFORE.get_or_init(|| Before { action, page });
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            let set = libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
            assert_eq!(set, 0, "SIGBUS can be handled");
        }
    });
}

/// Handles SIGBUS. It may interrupt any code, so it takes no lock, allocates no memory, makes only
/// plain system calls, and keeps `errno`.
extern "C" fn on_bus_error(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t. For a SIGBUS of the kernel,
    // which has a positive code, the address is the field of the union that is set. Otherwise the
    // address is not used.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let is_fault = code > 0;
    let Some(before) = BEFORE.get() else { return };
    if is_fault && let Some((entry, map)) = holder(address) {
        // Set before the zeros are placed: a thread that reads a zero must find the mark as well.
        entry.damaged.store(true, SeqCst);
        // Replaces the page of the address and all pages after it: a truncated file lacks all of
        // them, and each would raise a signal.
        if put_zeros(address & !(before.page - 1)..map.end) {
            return;
        }
    }
    pass_on(&before.action, signal, is_fault, info, context);
}

/// Replaces the pages of an address range by zeros. Returns whether the system call succeeded.
fn put_zeros(range: Range<usize>) -> bool {
    // SAFETY: the range belongs to a map on the list. The map stays in its place until this handler
    // returns: the interrupted thread was reading it, so it holds a reference to it, and a map
    // leaves the list only when it is dropped. `holder` never pairs the address of one map with the
    // length of another. The pages are only read, and the map is marked as damaged, so its reader
    // drops all that it derived from them. errno belongs to this thread.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let placed = libc::mmap(
            range.start as *mut c_void,
            range.len(),
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        *errno = before;
        placed != libc::MAP_FAILED
    }
}

/// Handles a SIGBUS as the process did before this module installed its handler.
fn pass_on(
    before: &libc::sigaction,
    signal: c_int,
    is_fault: bool,
    info: *mut siginfo_t,
    context: *mut c_void,
) {
    type Handler = extern "C" fn(c_int);
    type HandlerWithInfo = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
    // SAFETY: sigaction, signal and raise are safe in a handler. An action that is neither default
    // nor ignore is the address of a function whose type follows from the flags. It is called with
    // the arguments of the kernel.
    unsafe {
        match before.sa_sigaction {
            libc::SIG_IGN if !is_fault => return,
            // A process cannot ignore a fault.
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::signal(signal, libc::SIG_DFL);
            }
            handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler = std::mem::transmute::<usize, HandlerWithInfo>(handler);
                handler(signal, info, context);
            }
            handler => std::mem::transmute::<usize, Handler>(handler)(signal),
        }
        // The handler of Rust's runtime sets the default action and returns, unless a stack has
        // overflowed. A fault then happens again and ends the process. A signal that a process sent
        // must be sent again.
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut now);
        if !is_fault && now.sa_sigaction == libc::SIG_DFL {
            libc::raise(signal);
        }
    }
}

/// Makes a page of a map unreadable, as a bad sector does: reading it raises SIGBUS, and the file
/// does not change. The page is replaced by a page of an empty file.
#[cfg(test)]
pub(super) fn lose_page(map: &[u8], at: usize) {
    use std::os::fd::AsRawFd;
    let empty = tempfile::tempfile().unwrap();
    let page = BEFORE.get().unwrap().page;
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
mod tests;
