//! Rules of eviction and publication one by one, where programs would meet them seldom.

mod desk;
mod holds;
mod order;
mod publication;
mod shared;
