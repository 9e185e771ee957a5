//! A limited TCP service that ends well: stop accepting, let connections finish, close the lifespan.
//!
//! The order matters. A backend that is closed first makes each hit of a connection that still works
//! an error. A lifespan that is only dropped stops the cleanup task and says so in the log, and clears
//! nothing. Against a store that does not answer, `close` ends after one call's time.
//!
//! The backend is in memory, so its counts end with the process. With a file as a second argument they do not: closing the
//! lifespan writes them there, and the next start restores them. On Redis or Memcached they are kept for
//! the other processes, and `backend.lifespan_with(LifespanOptions::new().start(Start::Degraded))` starts
//! the service also while the store is away.
//!
//! `cargo run --example graceful_shutdown` talks to itself and ends. With an address it serves until
//! ctrl-c: `cargo run --example graceful_shutdown -- 127.0.0.1:7000 limits.snapshot`, then `nc 127.0.0.1 7000`.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use traffik::{InMemory, LifespanExt, Outcome, Throttle};

/// What one connection may send in all, so that no peer fills the memory with one line.
const MOST_BYTES: u64 = 1 << 20;
/// How long connections may take to finish. Shorter than what the supervisor allows the process.
const DRAIN: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().without_time().with_writer(std::io::stderr).init();
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0")).await?;
    let at = listener.local_addr()?;

    let mut backend = InMemory::builder();
    if let Some(file) = std::env::args().nth(2) {
        // Every minute too, for a process may die.
        backend = backend.snapshot_file(file).snapshot_every(Duration::from_secs(60));
    }
    let backend = backend.build()?;
    let life = backend.lifespan().await?;
    let throttle = Throttle::builder("lines").rate("3/s").backend(backend).build()?;
    println!("serving  {at}, 3 lines a second for each address");

    let (stop, stopped) = watch::channel(());
    let service = tokio::spawn(serve(listener, throttle.clone(), stopped));
    match address {
        Some(_) => told_to_stop().await?,
        None => tokio::select! {
            told = told_to_stop() => told?,
            talked = talk(at) => talked?,
        },
    }

    println!("stopping no connection is accepted from here on");
    drop(stop);
    let connections = service.await?;
    println!("draining connections that are still open: {}", connections.len());
    let left = drain(connections).await;
    println!("drained  connections that had to be cut: {left}");
    // Last, when nobody hits any more.
    life.close().await?;
    println!("closed   the lifespan is over");
    match throttle.hit("late").await {
        Ok(decision) => println!("late     {decision}"),
        Err(error) => println!("late     a hit is an error now: {error}"),
    }
    Ok(())
}

/// Accepts until it is told to stop, and hands back the connections that still work.
async fn serve(
    listener: TcpListener,
    throttle: Throttle,
    mut stopped: watch::Receiver<()>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let work = answer(stream, peer, throttle.clone(), stopped.clone());
                    connections.spawn(async move {
                        if let Err(error) = work.await {
                            tracing::warn!(%peer, %error, "a connection failed");
                        }
                    });
                }
                Err(error) => {
                    // Too many open files, say: that passes, and must not end the service.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            // Those that are done are let go of here, or they would add up.
            Some(_) = connections.join_next() => {}
            // Dropping the sender is the signal; the listener is dropped on return.
            _ = stopped.changed() => return connections,
        }
    }
}

/// Answers the lines of one peer. A line that was read is answered, also while stopping.
async fn answer(
    stream: TcpStream,
    peer: SocketAddr,
    throttle: Throttle,
    mut stopped: watch::Receiver<()>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(MOST_BYTES)).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            _ = stopped.changed() => None,
        };
        let Some(line) = line else { break };
        // Without the port: a peer that connects again is the same peer.
        let decision = throttle.hit(peer.ip().to_canonical()).await?;
        let reply = match decision.outcome() {
            Outcome::Allowed => format!("{}\n", line.to_uppercase()),
            Outcome::Denied { retry_after } => {
                format!("slow down, try again in {} ms\n", retry_after.as_millis() + 1)
            }
            Outcome::Never => "no request passes here\n".to_owned(),
        };
        write.write_all(reply.as_bytes()).await?;
    }
    Ok(write.write_all(b"bye\n").await?)
}

/// Waits for the connections, but not for ever; says how many had to be cut.
async fn drain(mut connections: JoinSet<()>) -> usize {
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN, all).await.is_err() {
        let left = connections.len();
        connections.shutdown().await;
        return left;
    }
    0
}

/// Waits for ctrl-c, or for the signal by which a supervisor ends a service.
async fn told_to_stop() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            told = tokio::signal::ctrl_c() => told,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// A client, so that the example ends by itself. Its connection is still open when it returns.
async fn talk(at: SocketAddr) -> std::io::Result<()> {
    let (read, mut write) = TcpStream::connect(at).await?.into_split();
    let mut replies = BufReader::new(read).lines();
    for line in ["one", "two", "three", "four"] {
        write.write_all(format!("{line}\n").as_bytes()).await?;
        if let Some(reply) = replies.next_line().await? {
            println!("client   {line:5} -> {reply}");
        }
    }
    tokio::spawn(async move {
        // Kept until the service says goodbye.
        while let Ok(Some(_)) = replies.next_line().await {}
        drop(write);
    });
    Ok(())
}
