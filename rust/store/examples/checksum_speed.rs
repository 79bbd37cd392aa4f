//! How fast is a checksum? Nanoseconds for 64 MiB in pieces of a size, a round per line, for EXP-005.

use std::hint::black_box;
use std::time::Instant;

use semantic_store::Checksum;

/// More than a core's cache has, and the piece that a block is read by.
const SIZES: [usize; 2] = [16 << 20, 256 << 10];
const BYTES: usize = 64 << 20;

fn main() {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(15);
    for size in SIZES {
        let bytes: Vec<u8> = (0..251).cycle().take(size).collect();
        for _ in 0..rounds {
            let start = Instant::now();
            for _ in 0..BYTES / size {
                black_box(Checksum::of(black_box(&bytes)));
            }
            println!("{size} {}", start.elapsed().as_nanos());
        }
    }
}
