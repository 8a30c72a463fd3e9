//! Bus errors in maps and outside of them. A case that ends its process, or changes how it handles
//! signals, runs in a process of its own.

use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

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
fn a_truncated_file_reads_as_zeros_and_its_map_is_damaged() {
    let (cut, whole) = (file(PAGES), file(PAGES));
    cut.write_all_at(&vec![7; PAGES], 0).unwrap();
    whole.write_all_at(&vec![7; PAGES], 0).unwrap();
    let mapping = Mapping::new(&cut).unwrap();
    let other = Mapping::new(&whole).unwrap();
    assert_eq!((mapping[PAGES - 1], mapping.is_damaged()), (7, false));
    cut.set_len(PAGE as u64 * 2).unwrap();
    assert_eq!((mapping[PAGE * 5], mapping.is_damaged()), (0, true));
    assert_eq!(mapping[PAGE * 2 - 1], 7, "the pages before the end stay");
    cut.set_len(0).unwrap();
    assert!(mapping.iter().all(|byte| *byte == 0));
    assert!(!other.is_damaged());
    drop(mapping);
    // The entry is reused, without the mark.
    assert!(!Mapping::new(&whole).unwrap().is_damaged());
    assert!(other.iter().all(|byte| *byte == 7));
}

#[test]
fn each_of_many_maps_has_an_entry_that_is_used_again() {
    let file = file(PAGE);
    let places = |maps: &[Mapping]| {
        let mut entries: Vec<_> = maps
            .iter()
            .map(|map| std::ptr::from_ref(map.entry))
            .collect();
        entries.sort_unstable();
        entries.dedup();
        entries.len()
    };
    let maps = || {
        (0..1000)
            .map(|_| Mapping::new(&file).unwrap())
            .collect::<Vec<_>>()
    };
    let first = maps();
    assert_eq!(places(&first), 1000);
    drop(first);
    let before = entries().count();
    assert_eq!(places(&maps()), 1000);
    // Other tests map files at the same time.
    assert!(entries().count() < before + 500);
}

#[test]
fn many_threads_may_read_lost_pages_at_once() {
    let file = file(PAGES);
    for _ in 0..50 {
        file.set_len(PAGES as u64).unwrap();
        let mapping = Mapping::new(&file).unwrap();
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

/// Reads a page that a file has lost, in a map that is not on the list.
fn fault_elsewhere() {
    let file = file(PAGES);
    // SAFETY: unsound on purpose: the test needs the SIGBUS.
    let map = unsafe { Mmap::map(&file).unwrap() };
    file.set_len(0).unwrap();
    std::hint::black_box(map[PAGE]);
}

fn send_to_itself() {
    // SAFETY: raise takes a number.
    unsafe { libc::raise(libc::SIGBUS) };
}

/// Sets the action on SIGBUS, as a program that uses the library may do before.
fn set_action(action: usize, flags: c_int) {
    // SAFETY: each field has a valid value, and the handlers below only call `_exit`.
    unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = action;
        new.sa_flags = flags;
        assert_eq!(
            libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut()),
            0
        );
    }
}

extern "C" fn exit_by_signal(signal: c_int) {
    // SAFETY: _exit is safe in a handler.
    unsafe { libc::_exit(signal + 100) };
}

extern "C" fn exit_by_code(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: as above; the kernel passes a valid siginfo_t.
    unsafe { libc::_exit(if (*info).si_code > 0 { 1 } else { 2 }) };
}

/// Asserts that a map that loses its pages reads as zeros.
fn maps_are_guarded() {
    let file = file(PAGES);
    let mapping = Mapping::new(&file).unwrap();
    file.set_len(0).unwrap();
    assert_eq!((mapping[PAGE], mapping.is_damaged()), (0, true));
}

const CASE: &str = "LEMONADE_TEST_BUS_ERROR";

/// Runs one case of the next test in a process of its own.
fn run(case: &str) -> ExitStatus {
    let mut itself = Command::new(std::env::current_exe().unwrap());
    itself.args([
        "--exact",
        "content::mapping::tests::any_other_bus_error_is_passed_on",
    ]);
    let output = itself.env(CASE, case).output().unwrap();
    output.status
}

#[test]
fn any_other_bus_error_is_passed_on() {
    // The action on SIGBUS before, and how the process ends after a fault and after a signal.
    let bus = Err(libc::SIGBUS);
    let cases = [
        ("runtime", bus, bus),
        ("default", bus, bus),
        ("ignored", bus, Ok(0)),
        ("plain", Ok(libc::SIGBUS + 100), Ok(libc::SIGBUS + 100)),
        ("info", Ok(1), Ok(2)),
    ];
    let Ok(case) = std::env::var(CASE) else {
        for (host, by_fault, by_signal) in cases {
            for (how, end) in [("fault", by_fault), ("sent", by_signal)] {
                let status = run(&format!("{host} {how}"));
                let found = status.code().ok_or(status.signal().unwrap_or(0));
                assert_eq!(found, end, "{host} {how}");
            }
        }
        return;
    };
    let (host, how) = case.split_once(' ').unwrap();
    match host {
        "default" => set_action(libc::SIG_DFL, 0),
        "ignored" => set_action(libc::SIG_IGN, 0),
        "plain" => set_action(exit_by_signal as *const () as usize, 0),
        "info" => set_action(exit_by_code as *const () as usize, libc::SA_SIGINFO),
        // The handler of Rust's runtime.
        _ => {}
    }
    maps_are_guarded();
    match how {
        "fault" => fault_elsewhere(),
        _ => send_to_itself(),
    }
    // Reached if the signal was ignored.
    maps_are_guarded();
}
