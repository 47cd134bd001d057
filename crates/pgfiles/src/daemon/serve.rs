//! A daemon at work.

use super::Order;
use crate::exit::{Failure, Result};

pub(super) async fn run(order: Order) -> Result<()> {
    Err(Failure::failed(format!("{}: mounting is not wired yet", order.mountpoint.display())))
}
