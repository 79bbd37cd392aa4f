//! Plain bytes, and the arrays that they are in: the buffers of running sequences, and copies on
//! their way.

use crate::blocks::Cost;
use crate::error::Error;
use crate::ledger::{Account, Charge, Ledger};
use crate::pool::Pool;

impl Pool<'_> {
    /// Take bytes in so many arrays; evicts when need be.
    ///
    /// # Errors
    ///
    /// [`Error::BytesExhausted`] and [`Error::ArraysExhausted`].
    pub fn charge(&mut self, charge: Charge, bytes: u64, arrays: u64) -> Result<(), Error> {
        self.make_room(&[], Cost { bytes, arrays })?;
        self.books.share.enter(self.books.budget, Account::Charge(charge), bytes);
        *self.books.blocks.arrays_charged.of(charge) += arrays;
        Ok(())
    }

    /// Give back charged bytes and arrays.
    ///
    /// # Errors
    ///
    /// [`Error::OverDischarge`] for more than was charged.
    pub fn discharge(&mut self, charge: Charge, bytes: u64, arrays: u64) -> Result<(), Error> {
        let charged = charged(self.books.share.ledger(), charge);
        let arrays_charged = self.books.blocks.arrays_charged.of(charge);
        for (unit, requested, charged) in
            [("bytes", bytes, charged), ("arrays", arrays, *arrays_charged)]
        {
            if requested > charged {
                let charge = charge.as_str();
                return Err(Error::OverDischarge { charge, unit, requested, charged });
            }
        }
        *arrays_charged -= arrays;
        self.books.share.leave(self.books.budget, Account::Charge(charge), bytes);
        Ok(())
    }
}

fn charged(ledger: &Ledger, charge: Charge) -> u64 {
    match charge {
        Charge::Live => ledger.live,
        Charge::Staging => ledger.staging_charged,
    }
}
