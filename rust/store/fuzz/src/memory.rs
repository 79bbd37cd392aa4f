//! Memory that ends: what reserves as much as a damaged length says is stopped at once.
//!
//! Linux hands out far more than there is, as long as nobody writes to it, so that without a limit
//! such a bug is not seen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The longest header takes 1 MiB, and some ninety times that as a tree of one-member objects.
const LIMIT: usize = 256 << 20;

#[global_allocator]
static MEMORY: Memory = Memory(AtomicUsize::new(0));

/// The system's memory, of which so many bytes are in use.
struct Memory(AtomicUsize);

// SAFETY: what is not refused comes from the system's allocator, and goes back to it.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.0.fetch_add(layout.size(), Ordering::Relaxed).saturating_add(layout.size()) > LIMIT
        {
            self.0.fetch_sub(layout.size(), Ordering::Relaxed);
            return ptr::null_mut();
        }
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(place, layout) }
    }
}
