//! What stands in for TLS in a build without it: nothing.

use std::convert::Infallible;

use postgres::Client;

use super::Outcome;
use crate::config::tls::Tls;

/// There is none.
#[derive(Clone)]
pub struct Connector(Infallible);

impl Connector {
    pub fn new(_: &Tls) -> Result<Option<Connector>, String> {
        Ok(None)
    }

    pub fn afresh(&self) -> Connector {
        match self.0 {}
    }

    pub fn outcome(&self) -> Outcome {
        match self.0 {}
    }

    pub fn dial(self, _: &postgres::Config) -> Result<Client, postgres::Error> {
        match self.0 {}
    }
}

pub fn fault(_: &postgres::Error) -> Option<String> {
    None
}
