//! `vdm serve`.

use crate::shared::device::DeviceArgs;
use crate::shared::output::outln;
use crate::shared::watch::say;
use anyhow::{Context, Result};
use serde_json::json;
use std::net::TcpListener;
use vdm::train::workers::serve;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen: an address of this machine and a port, or port 0 for any that is free. Whoever reaches the address can have
    /// this machine compute: use it in networks that you trust.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7171")]
    pub bind: String,
    #[command(flatten)]
    pub device: DeviceArgs,
}

pub fn execute(args: &Args, json: bool) -> Result<()> {
    let device = args.device.open()?;
    let cannot = || format!("cannot listen at {}; name another address with --bind", args.bind);
    let listener = TcpListener::bind(&args.bind).with_context(cannot)?;
    let address = listener.local_addr().with_context(cannot)?.to_string();
    if json {
        outln!("{}", json!({ "address": address }));
    } else {
        outln!("listening at {address}; train with  vdm train --worker {address}");
    }
    serve(&listener, &device, &|what| say(&what)).with_context(cannot)
}
