//! What the demo shows, part by part.

use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;
use whichpod_testkit::backend::Backend;
use whichpod_testkit::load::{Load, Report};

use super::output::Output;
use super::tally::{Line, Row, parse, table};
use super::warnings::Warnings;
use super::world::{GOOD, HEADLESS, TRAP, VIRTUAL, World};

/// Requests of the first part.
const FIRST: u64 = 9;
/// Requests to the trap.
const TRAPPED: u64 = 4;
/// Connections of the load.
const CONNECTIONS: usize = 8;
/// Pause of each connection between two requests of the load.
const PAUSE: Duration = Duration::from_millis(5);
/// A change is in DNS for at most its TTL of 1 s; then the load goes on with it for a while.
const FOLLOW: Duration = Duration::from_millis(1500);

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The log and the pods agree on every request, and nothing failed.
    pub agree: bool,
    /// All requests that were sent.
    pub requests: u64,
    /// Requests that got no answer or a wrong one.
    pub failed: u64,
    /// The pods, with both counts.
    pub pods: Vec<Row>,
    /// The warning that the virtual IP drew.
    pub warning: Option<String>,
    /// What does not agree, in words.
    pub problems: Vec<String>,
}

/// Plays all parts and compares the accounts.
///
/// # Errors
/// When a pod cannot be started, or the access log cannot be read.
pub async fn play(world: &mut World, warnings: &Warnings, output: &Output) -> anyhow::Result<Outcome> {
    let first = first_requests(world, output).await?;
    let second = changes_under_load(world, output).await?;
    let (trapped, warning) = trap(world, warnings, output).await?;
    let lines = read_log(world, first.ok + second.ok + trapped.ok).await?;
    let reports = [&first, &second, &trapped];
    Ok(compare(world, &reports, &lines, warning))
}

/// Prints commands to try, and waits for an interrupt.
///
/// # Errors
/// When the signal cannot be waited for.
pub async fn keep(world: &World, output: &Output) -> anyhow::Result<()> {
    output.heading("Still running; try")?;
    output.line(&format!("  curl -s http://{}/", world.address(GOOD)?))?;
    output.line(&format!("  curl -s http://{}/          # the trap", world.address(TRAP)?))?;
    if let Some(admin) = world.sidecar.admin() {
        output.line(&format!("  curl -s http://{admin}/clusters"))?;
        output.line(&format!("  curl -s http://{admin}/stats/prometheus"))?;
    }
    if let Some(health) = world.sidecar.health() {
        output.line(&format!("  curl -s http://{health}/ready"))?;
    }
    output.line(&format!("  tail -f {}", world.sidecar.log().display()))?;
    output.line("Ctrl-C ends it.")?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}

async fn first_requests(world: &World, output: &Output) -> anyhow::Result<Report> {
    output.heading("Three pods behind a headless name")?;
    output.line(&format!("  {HEADLESS} (asked from DNS at {})", world.dns))?;
    for pod in world.pods.values() {
        output.line(&format!("    {} at {}", pod.name(), pod.address()))?;
    }
    output.line(&format!(
        "  the app calls the sidecar at {}; {FIRST} requests, one line each:",
        world.address(GOOD)?
    ))?;
    let report = Load::new(world.address(GOOD)?).requests(FIRST).first_id(1).run().await;
    for line in world.sidecar.lines(count(FIRST)).await? {
        output.log_line(&line)?;
    }
    output.table(&table(&read_log(world, FIRST).await?, &counted(world)))?;
    Ok(report)
}

async fn changes_under_load(world: &mut World, output: &Output) -> anyhow::Result<Report> {
    output.heading("A pod comes, a pod goes, under load")?;
    let load = Load::new(world.address(GOOD)?).connections(CONNECTIONS).pause(PAUSE).first_id(1_000).start();
    output.wait("sending requests", FOLLOW).await;
    let came = world.add_pod().await?;
    output.line(&format!("  {came} has come: DNS has it, the log follows within the TTL"))?;
    output.wait("sending requests to four pods", FOLLOW).await;
    let goes = "backend-2";
    world.remove_pod(goes).await;
    output.line(&format!("  {goes} has gone: it left DNS and stopped at once"))?;
    output.wait("sending requests to three pods", FOLLOW).await;
    let report = load.stop().await;
    let lines = read_log(world, FIRST + report.ok).await?;
    output.table(&table(&lines, &counted(world)))?;
    output.line(&format!("  {} requests, {} failed", report.ok + report.failed, report.failed))?;
    Ok(report)
}

async fn trap(
    world: &World,
    warnings: &Warnings,
    output: &Output,
) -> anyhow::Result<(Report, Option<String>)> {
    output.heading("The trap: a name with a virtual IP")?;
    output.line(&format!("  {VIRTUAL} is {}: the pods are hidden behind it", world.virtual_ip))?;
    let report = Load::new(world.address(TRAP)?).requests(TRAPPED).first_id(1_000_000).run().await;
    let virtual_ip = world.virtual_ip.to_string();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let lines = world.sidecar.lines(0).await?;
        let hidden: Vec<_> = lines.iter().filter(|line| line.contains(&virtual_ip)).collect();
        if hidden.len() as u64 >= report.ok || tokio::time::Instant::now() > deadline {
            for line in hidden {
                output.log_line(line)?;
            }
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let warning = warnings.with("virtual IP").await;
    match &warning {
        Some(warning) => output.warning(warning)?,
        None => output.line("  no warning came, although one should have")?,
    }
    Ok((report, warning))
}

/// A number of requests as a number of lines.
fn count(requests: u64) -> usize {
    usize::try_from(requests).unwrap_or(usize::MAX)
}

async fn read_log(world: &World, at_least: u64) -> anyhow::Result<Vec<Line>> {
    world.sidecar.lines(count(at_least)).await?.iter().map(|line| parse(line)).collect()
}

/// Each pod's name, address and own count.
fn counted(world: &World) -> Vec<(String, String, usize)> {
    let count = |pod: &Backend| (pod.name().to_owned(), pod.address().to_string(), pod.requests());
    let mut pods: Vec<_> = world.all_pods().map(count).collect();
    pods.sort();
    pods
}

/// Every answered request has exactly one line, and the line names the pod that answered; through the virtual IP
/// no line may name a pod at all.
fn compare(world: &World, reports: &[&Report], lines: &[Line], warning: Option<String>) -> Outcome {
    let mut problems = Vec::new();
    let virtual_ip = world.virtual_ip.to_string();
    let trapped = lines.iter().filter(|line| line.address == virtual_ip).count();
    let mut seen = std::collections::HashMap::new();
    for line in lines {
        *seen.entry(line.request_id.clone()).or_insert(0) += 1;
        let answered =
            line.request_id.parse().ok().and_then(|id: u64| reports.iter().find_map(|r| r.pod_of.get(&id)));
        let right = match answered {
            Some(pod) if line.address != virtual_ip => *pod == line.pod,
            Some(_) => line.pod == "-",
            None => false,
        };
        if !right {
            problems.push(format!(
                "request {} was answered by {}, and the log says {} ({})",
                line.request_id,
                answered.map_or("nobody", String::as_str),
                line.pod,
                line.address
            ));
        }
    }
    for id in reports.iter().flat_map(|report| report.pod_of.keys()) {
        match seen.get(&id.to_string()) {
            Some(1) => {}
            count => problems.push(format!("request {id} has {} lines", count.copied().unwrap_or(0))),
        }
    }
    let rows = table(lines, &counted(world));
    let (logged, served) = rows.iter().fold((0, 0), |(l, s), row| (l + row.log, s + row.backend));
    if logged + trapped != served {
        problems.push(format!("the log has {} requests, the pods counted {served}", logged + trapped));
    }
    if warning.is_none() {
        problems.push("the virtual IP drew no warning".to_owned());
    }
    let failed = reports.iter().map(|report| report.failed).sum();
    let reasons = reports.iter().flat_map(|report| &report.reasons);
    problems.extend(reasons.map(|(reason, count)| format!("{count} requests failed: {reason}")));
    Outcome {
        agree: problems.is_empty() && failed == 0,
        requests: reports.iter().map(|report| report.ok + report.failed).sum(),
        failed,
        pods: rows,
        warning,
        problems,
    }
}
