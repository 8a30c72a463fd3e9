//! The allocator of the program: mimalloc, and the system for large blocks.
//!
//! If a thread frees a block of another thread, mimalloc reuses it only after the other thread has
//! allocated a hundred more times (mimalloc 2.3, `_mi_malloc_generic`). For small blocks, this does
//! not matter. But a record of 16 MiB is parsed on one thread and freed on another, and causes few
//! allocations: twenty such records, all freed, took 300 MiB. The system unmaps a large block as
//! soon as any thread frees it, and moves it without a copy when it grows.
//!
//! Knows nothing of the use of the memory.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// Blocks of at least this many bytes come from the system. Ordinary frames, statements and packets
/// have 1 to 2 MiB: with a lower limit, each of them would cost page faults. With a higher limit,
/// freed blocks below it would take memory as described above.
const LARGE_BYTES: usize = 4 * 1024 * 1024;

/// How long mimalloc keeps freed pages before it returns them to the system, in milliseconds: ten
/// times as long as by default. The values of a statement have a few MiB, and are freed before those
/// of the next are made. A load then has 0.4 times the page faults, and takes 3 % less processor time.
const PURGE_DELAY_MS: libc::c_long = 100;

/// The option for this delay. The bindings have no name for it, but for the options before and after.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_eager_commit_delay + 1;
const _: () = assert!(PURGE_DELAY + 1 == libmimalloc_sys::mi_option_use_numa_nodes);

/// The allocator.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allocator;

impl Allocator {
    /// Makes mimalloc keep freed pages for `PURGE_DELAY_MS`, and the system map each large block
    /// separately, including those of SQLite. By default, once a block of up to 32 MiB was freed,
    /// glibc keeps freed blocks up to that size.
    pub fn set_up() {
        // SAFETY: Options may be set at any time.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: `mallopt` takes two numbers, and may be called at any time.
        unsafe {
            let bytes = libc::c_int::try_from(LARGE_BYTES).expect("it is 4 MiB");
            libc::mallopt(libc::M_MMAP_THRESHOLD, bytes);
        }
    }
}

// SAFETY: Each block is passed back to the allocator that it is from, because its size decides
// that, and the caller passes the size that the block has. Both allocators fulfil the contract.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The caller fulfils the contract, which is the same for both.
        unsafe {
            if layout.size() < LARGE_BYTES {
                MiMalloc.alloc(layout)
            } else {
                System.alloc(layout)
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: As for `alloc`.
        unsafe {
            if layout.size() < LARGE_BYTES {
                MiMalloc.alloc_zeroed(layout)
            } else {
                System.alloc_zeroed(layout)
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: As for `alloc`; the size is that of the allocation.
        unsafe {
            if layout.size() < LARGE_BYTES {
                MiMalloc.dealloc(block, layout);
            } else {
                System.dealloc(block, layout);
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: As for `dealloc`. The new layout is valid because the caller ensures that for this
        // size and alignment. The copied bytes are within both blocks, which do not overlap.
        unsafe {
            match (layout.size() < LARGE_BYTES, new_bytes < LARGE_BYTES) {
                (true, true) => MiMalloc.realloc(block, layout, new_bytes),
                (false, false) => System.realloc(block, layout, new_bytes),
                _ => {
                    let new_layout = Layout::from_size_align_unchecked(new_bytes, layout.align());
                    let moved = self.alloc(new_layout);
                    if !moved.is_null() {
                        let bytes = layout.size().min(new_bytes);
                        std::ptr::copy_nonoverlapping(block, moved, bytes);
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of each size around the limit keep their bytes while they grow and shrink past it.
    #[test]
    fn blocks_keep_their_bytes_past_the_limit() {
        Allocator::set_up();
        let sizes = [
            1,
            100,
            LARGE_BYTES - 1,
            LARGE_BYTES,
            LARGE_BYTES + 1,
            5 * LARGE_BYTES,
        ];
        for align in [1, 8, 64, 8_192] {
            for (from, to) in sizes.iter().flat_map(|from| sizes.map(|to| (*from, to))) {
                let layout = |bytes| Layout::from_size_align(bytes, align).unwrap();
                // SAFETY: The layouts are not empty, each block is freed once with its layout, and
                // the slices are within the blocks, whose bytes were written or zeroed.
                unsafe {
                    let block = Allocator.alloc_zeroed(layout(from));
                    assert_eq!(block.align_offset(align), 0);
                    assert_eq!((*block, *block.add(from - 1)), (0, 0));
                    block.write_bytes(7, from);
                    let block = Allocator.realloc(block, layout(from), to);
                    assert_eq!(block.align_offset(align), 0);
                    let kept = std::slice::from_raw_parts(block, from.min(to));
                    assert!(kept.iter().all(|byte| *byte == 7), "{from} to {to}");
                    Allocator.dealloc(block, layout(to));
                }
            }
        }
    }
}
