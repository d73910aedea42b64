//! A backend that misbehaves by a script, one script per connection, and keeps what it received.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::backend::reset;
use crate::sync::lock;
use crate::tasks::{Tasks, accepted};
use crate::wire::{Log, Wire};

/// What a connection does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// Answers each request with 200 and [`ANSWER`], and keeps the connection.
    Answer,
    /// Accepts and resets at once.
    AcceptThenReset,
    /// Reads a whole request, then resets.
    ResetAfterRequest,
    /// Reads a whole request, sends so many bytes of an answer (of its head first), then resets.
    ResetAfterBytes(usize),
    /// Reads a whole request, then closes.
    CloseWithoutResponse,
    /// Answers the first request like [`Answer`](Self::Answer), then plays the other script.
    AnswerThen(Box<Script>),
    /// Like [`Answer`](Self::Answer), but closes a connection that was idle for a random time up to this, after its first
    /// answer.
    CloseIdleAfter(Duration),
    /// Sends these bytes before anybody asked, then reads everything.
    Greet(Bytes),
    /// Reads everything and never answers.
    Hang,
    /// Reads nothing and never answers.
    Deaf,
    /// Reads a whole request, ends its own direction without an answer, and goes on reading.
    HalfCloseAfterRequest,
    /// Answers like [`Answer`](Self::Answer) when the head is there, and reads the body after that.
    AnswerEarly,
    /// Reads a whole request, sends these bytes, and closes.
    Garbage(Bytes),
    /// Answers each request with these bytes, and keeps the connection.
    Raw(Bytes),
    /// Answers each request with a body of so many bytes, one at each interval, and keeps the connection.
    SlowBody {
        /// The body's length.
        bytes: usize,
        /// The pause before each byte.
        interval: Duration,
    },
    /// Sends back what it receives, and ends when the client does.
    Echo,
    /// Reads a whole request, sends these bytes, then goes on like [`Echo`](Self::Echo).
    EchoAfter(Bytes),
    /// Refuses connections: the port is bound, and thus nobody else's, but not listened on. Only as the only script.
    NoListen,
    /// Does not answer connects, as a node that vanished: its queue of connections is full. Only as the only script.
    Silent,
}

/// The body of a scripted backend's proper answer.
pub const ANSWER: &str = "i am scripted\n";

/// A scripted backend; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct ScriptedBackend {
    address: SocketAddr,
    received: Arc<Received>,
    _held: Held,
}

/// What keeps the port.
#[derive(Debug)]
enum Held {
    Serving { _tasks: Tasks },
    Refusing { _socket: TcpSocket },
    Full { _listener: TcpListener, _queue: Vec<TcpStream> },
}

#[derive(Debug, Default)]
struct Received {
    connections: Mutex<Vec<Log>>,
    requests: AtomicUsize,
}

/// After a failed accept, so that a lasting one does not spin.
const PAUSE: Duration = Duration::from_millis(10);

impl ScriptedBackend {
    /// Plays this script on every connection; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(address: SocketAddr, script: Script) -> io::Result<Self> {
        Self::start_sequence(address, vec![script]).await
    }

    /// Plays the first script on the first connection, the second on the second, and the last on all further ones.
    ///
    /// # Errors
    /// When the address cannot be bound, there is no script, or one that goes only alone is one of several.
    pub async fn start_sequence(address: SocketAddr, scripts: Vec<Script>) -> io::Result<Self> {
        let received = Arc::<Received>::default();
        if scripts == [Script::NoListen] {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.bind(address)?;
            let address = socket.local_addr()?;
            return Ok(Self { address, received, _held: Held::Refusing { _socket: socket } });
        }
        if scripts == [Script::Silent] {
            let (listener, queue) = silent(address).await?;
            let address = listener.local_addr()?;
            return Ok(Self { address, received, _held: Held::Full { _listener: listener, _queue: queue } });
        }
        let alone = |script: &Script| matches!(script, Script::NoListen | Script::Silent);
        if scripts.is_empty() || scripts.iter().any(alone) {
            let text = format!("scripts {scripts:?}: give at least one, and NoListen and Silent only alone");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let tasks = Tasks::start(accept(listener, scripts, Arc::clone(&received)));
        Ok(Self { address, received, _held: Held::Serving { _tasks: tasks } })
    }

    /// Where it listens (or refuses).
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        lock(&self.received.connections).len()
    }

    /// How many whole requests were read (of [`Script::AnswerEarly`]: heads). None are counted where the script does not
    /// tell requests apart: `AcceptThenReset`, `Greet`, `Hang`, `Deaf`, `Echo`.
    pub fn requests(&self) -> usize {
        self.received.requests.load(Relaxed)
    }

    /// The bytes that each connection has received so far, in the order of the connections.
    pub fn received(&self) -> Vec<Vec<u8>> {
        lock(&self.received.connections).iter().map(|log| lock(log).clone()).collect()
    }
}

/// A listener with the smallest queue, and the connections that fill it: the kernel drops what else knocks (SYN).
async fn silent(address: SocketAddr) -> io::Result<(TcpListener, Vec<TcpStream>)> {
    const MOST: usize = 8;
    const SILENCE: Duration = Duration::from_millis(100);
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(address)?;
    let listener = socket.listen(0)?;
    let mut queue = Vec::new();
    while queue.len() < MOST {
        match timeout(SILENCE, TcpStream::connect(listener.local_addr()?)).await {
            Ok(stream) => queue.push(stream?),
            Err(_) => return Ok((listener, queue)),
        }
    }
    Err(io::Error::other(format!("the kernel queues more than {MOST} connections although 0 were asked for")))
}

async fn accept(listener: TcpListener, scripts: Vec<Script>, received: Arc<Received>) {
    let mut connections = JoinSet::new();
    let mut scripts = scripts.into_iter().peekable();
    loop {
        let Ok((stream, _)) = accepted(&listener, &mut connections).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let script = if scripts.len() > 1 { scripts.next() } else { scripts.peek().cloned() };
        let Some(script) = script else { return };
        let log = Log::default();
        lock(&received.connections).push(Arc::clone(&log));
        let received = Arc::clone(&received);
        connections.spawn(async move {
            // Only latency suffers if this fails.
            let _ = stream.set_nodelay(true);
            let mut connection = Connection { wire: Wire::logged(stream, log), received };
            // A client that goes away ends the script; the client's side has the assertions.
            if let Ok(After::Reset) = connection.play(&script).await {
                reset(&connection.wire.stream);
            }
        });
    }
}

/// How a connection ends when its script is over.
enum After {
    Close,
    Reset,
}

struct Connection {
    wire: Wire<TcpStream>,
    received: Arc<Received>,
}

impl Connection {
    async fn play(&mut self, mut script: &Script) -> io::Result<After> {
        while let Script::AnswerThen(next) = script {
            if !self.request().await? {
                return Ok(After::Close);
            }
            self.wire.stream.write_all(&answer()).await?;
            script = next;
        }
        match script {
            Script::Answer | Script::AnswerThen(_) => self.answer_each(&answer()).await,
            Script::Raw(bytes) => self.answer_each(bytes).await,
            Script::AcceptThenReset | Script::NoListen | Script::Silent => Ok(After::Reset),
            Script::ResetAfterRequest => {
                self.request().await?;
                Ok(After::Reset)
            }
            Script::ResetAfterBytes(count) => {
                self.request().await?;
                // Longer than what is sent of it, so that it is cut in the middle.
                let whole = answer_with(&vec![b'x'; count + 1]);
                self.wire.stream.write_all(&whole[..*count]).await?;
                Ok(After::Reset)
            }
            Script::CloseWithoutResponse => {
                self.request().await?;
                Ok(After::Close)
            }
            Script::CloseIdleAfter(longest) => self.close_idle(*longest).await,
            Script::Greet(bytes) => {
                self.wire.stream.write_all(bytes).await?;
                self.read_to_end().await
            }
            Script::Hang => self.read_to_end().await,
            Script::Deaf => std::future::pending().await,
            Script::HalfCloseAfterRequest => {
                self.request().await?;
                self.wire.stream.shutdown().await?;
                self.read_to_end().await
            }
            Script::AnswerEarly => self.answer_early().await,
            Script::Garbage(bytes) => {
                self.request().await?;
                self.wire.stream.write_all(bytes).await?;
                Ok(After::Close)
            }
            Script::Echo => self.echo().await,
            Script::EchoAfter(bytes) => {
                self.request().await?;
                self.wire.stream.write_all(bytes).await?;
                self.echo().await
            }
            Script::SlowBody { bytes, interval } => self.answer_slowly(*bytes, *interval).await,
        }
    }

    async fn answer_each(&mut self, bytes: &[u8]) -> io::Result<After> {
        while self.request().await? {
            self.wire.stream.write_all(bytes).await?;
        }
        Ok(After::Close)
    }

    async fn close_idle(&mut self, longest: Duration) -> io::Result<After> {
        while self.request().await? {
            self.wire.stream.write_all(&answer()).await?;
            let idle = longest.mul_f64(fastrand::f64());
            let waited = !self.wire.has_unused();
            if waited && timeout(idle, self.wire.fill()).await.is_err() {
                break;
            }
        }
        Ok(After::Close)
    }

    async fn answer_early(&mut self) -> io::Result<After> {
        while let Some(head) = self.wire.head().await? {
            self.received.requests.fetch_add(1, Relaxed);
            self.wire.stream.write_all(&answer()).await?;
            self.wire.body(head.request_framing()?).await?;
            self.wire.take_used();
        }
        Ok(After::Close)
    }

    async fn answer_slowly(&mut self, bytes: usize, interval: Duration) -> io::Result<After> {
        let whole = answer_with(&vec![b'.'; bytes]);
        let (head, body) = whole.split_at(whole.len() - bytes);
        while self.request().await? {
            self.wire.stream.write_all(head).await?;
            for byte in body {
                tokio::time::sleep(interval).await;
                self.wire.stream.write_all(&[*byte]).await?;
            }
        }
        Ok(After::Close)
    }

    async fn echo(&mut self) -> io::Result<After> {
        loop {
            let bytes = self.wire.take_unused();
            self.wire.stream.write_all(&bytes).await?;
            self.wire.take_used();
            if !self.wire.fill().await? {
                return Ok(After::Close);
            }
        }
    }

    async fn read_to_end(&mut self) -> io::Result<After> {
        self.wire.drain().await?;
        Ok(After::Close)
    }

    /// Reads a whole request; false if the client has ended the connection instead.
    async fn request(&mut self) -> io::Result<bool> {
        let Some(head) = self.wire.head().await? else { return Ok(false) };
        self.wire.body(head.request_framing()?).await?;
        self.wire.take_used();
        self.received.requests.fetch_add(1, Relaxed);
        Ok(true)
    }
}

fn answer() -> Vec<u8> {
    answer_with(ANSWER.as_bytes())
}

fn answer_with(body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
