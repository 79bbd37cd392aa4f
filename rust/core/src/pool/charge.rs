//! Plain bytes: the buffers of running sequences, and copies on their way.

use crate::error::Error;
use crate::ledger::{Account, Charge, Ledger};
use crate::pool::Pool;

impl Pool<'_> {
    /// Take bytes; evicts when need be.
    ///
    /// # Errors
    ///
    /// [`Error::BytesExhausted`].
    pub fn charge(&mut self, charge: Charge, bytes: u64) -> Result<(), Error> {
        self.make_room(&[], bytes)?;
        self.books.share.enter(self.books.budget, Account::Charge(charge), bytes);
        Ok(())
    }

    /// Give back charged bytes.
    ///
    /// # Errors
    ///
    /// [`Error::OverDischarge`] for more than was charged.
    pub fn discharge(&mut self, charge: Charge, bytes: u64) -> Result<(), Error> {
        let charged = charged(self.books.share.ledger(), charge);
        if bytes > charged {
            let charge = charge.as_str();
            return Err(Error::OverDischarge { charge, requested: bytes, charged });
        }
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
