//! `connections` and `close`: who is connected to a running router, and ending that.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};

use super::admin::Admin;
use super::columns::{Columns, bytes, time};
use super::{clear, print};
use crate::api::{Closed, Connection, ConnectionQuery, Page, State};

/// List connections that are not over: those in the kernel, too.
///
/// Each option that is given must fit.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    admin: Admin,

    #[command(flatten)]
    which: Which,

    /// How many at most; 0 for all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,

    /// Show them again every two seconds
    #[arg(long, conflicts_with = "json")]
    watch: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// End connections: both sides get a RST.
#[derive(clap::Args, Debug)]
pub struct CloseArgs {
    #[command(flatten)]
    admin: Admin,

    /// The number of a connection, as `connections` shows it
    #[arg(value_name = "ID")]
    id: Option<u64>,

    #[command(flatten)]
    which: Which,
}

/// Which connections.
#[derive(clap::Args, Clone, Debug)]
pub struct Which {
    /// To this Listener
    #[arg(long, value_name = "NAMESPACE/NAME")]
    listener: Option<String>,

    /// With this server name, or one below it: `*.example.com`
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Of this client: an address, a network, or an address with its port
    #[arg(long, value_name = "ADDR")]
    client: Option<String>,

    /// To this endpoint: an address, a network, or an address with its port
    #[arg(long, value_name = "ADDR")]
    endpoint: Option<String>,

    /// Carried by this datapath
    #[arg(long, value_name = "NAME")]
    datapath: Option<String>,
}

/// Prints them.
pub fn run(args: &Args) -> Result<ExitCode> {
    loop {
        let page = args.ask()?;
        if args.json {
            print(&format!(
                "{}\n",
                serde_json::to_string_pretty(&page.connections)?
            ))?;
            return Ok(ExitCode::SUCCESS);
        }
        if args.watch {
            clear()?;
        }
        print(&text(&page))?;
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(AGAIN);
    }
}

/// Ends them, and says how many there were.
pub fn close(args: &CloseArgs) -> Result<ExitCode> {
    let query = args.which.query();
    let is_all = query == ConnectionQuery::default();
    let closed: Closed = match args.id {
        Some(_) if !is_all => {
            bail!("give either the number of a connection, or options that say which")
        }
        Some(id) => args.admin.delete(&format!("{PATH}/{id}"), &())?,
        None if is_all => {
            bail!("say which: the number of a connection, or --client, --host, … (see --help)")
        }
        None => args.admin.delete(PATH, &query)?,
    };
    print(&format!("{} closed\n", closed.closed))?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// As many pages as it takes.
    fn ask(&self) -> Result<Page> {
        let most = if self.limit == 0 {
            usize::MAX
        } else {
            self.limit
        };
        let mut query = ConnectionQuery {
            limit: Some(most.min(PAGE)),
            ..self.which.query()
        };
        let mut all: Page = self.admin.get(PATH, &query)?;
        while let Some(next) = all.next.filter(|_| all.connections.len() < most) {
            query.after = Some(next);
            query.limit = Some((most - all.connections.len()).min(PAGE));
            let page: Page = self.admin.get(PATH, &query)?;
            all.next = page.next;
            all.connections.extend(page.connections);
        }
        Ok(all)
    }
}

impl Which {
    fn query(&self) -> ConnectionQuery {
        let Self {
            listener,
            host,
            client,
            endpoint,
            datapath,
        } = self.clone();
        ConnectionQuery {
            listener,
            host,
            client,
            endpoint,
            datapath,
            ..ConnectionQuery::default()
        }
    }
}

fn text(page: &Page) -> String {
    let mut columns = Columns::new(&[
        "id", "client", "vip", "host", "endpoint", "datapath", "age", "idle", "up", "down",
    ]);
    for it in &page.connections {
        columns.row(row(it));
    }
    let shown = page.connections.len();
    let rest = match page.total.saturating_sub(shown) {
        0 => String::new(),
        more => format!("and {more} more (--limit 0 shows all)\n"),
    };
    columns.text() + &rest
}

fn row(it: &Connection) -> Vec<String> {
    let datapath = match it.state {
        State::Hello => "(hello)".into(),
        State::Connecting => "(connecting)".into(),
        State::Carried => it.datapath.clone().unwrap_or_default(),
    };
    vec![
        it.id.to_string(),
        it.client.clone(),
        it.vip.clone(),
        it.host.clone().unwrap_or_default(),
        it.endpoint.clone().unwrap_or_default(),
        datapath,
        time(it.age_seconds),
        time(it.idle_seconds),
        bytes(it.bytes_up),
        bytes(it.bytes_down),
    ]
}

const PATH: &str = "/api/v1/connections";

/// The most that the API gives at a time.
const PAGE: usize = 1000;

const AGAIN: Duration = Duration::from_secs(2);
