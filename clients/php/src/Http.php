<?php

declare(strict_types=1);

namespace CometServer;

use CometServer\Exception\BadAnswer;
use CometServer\Exception\ConnectionLost;
use CometServer\Exception\TimedOut;
use CometServer\Exception\Unreachable;

/**
 * One kept HTTP/1.1 connection over a Unix socket, TCP or TLS, on which every wait ends at a time given.
 *
 * Not PHP's own `http://` streams: those know no Unix socket, and no limit for the whole answer.
 */
final class Http
{
    /** The most an answer may have: a page of history at its largest, and room around it. */
    private const MAX_ANSWER = 64 << 20;

    /** A head that is longer is none of our server's. */
    private const MAX_HEAD = 64 << 10;

    /** How much is read at a time. */
    private const PIECE = 64 << 10;

    /** A socket whose backlog is full refuses at once: how long to wait before it is tried again, in microseconds. */
    private const FULL_PAUSE = 10000;

    private const EAGAIN = 11;

    private string $target;
    private string $host;
    private float $connectTime;

    /** Where else a server was looked for, for the text of an error. */
    private string $looked;

    /** @var resource|null */
    private $stream = null;

    /** What was read of the connection and not used. */
    private string $buffer = '';

    /**
     * @param string $target      `unix:///path`, `tcp://host:port` or `tls://host:port`
     * @param string $host        for the `Host` header
     * @param float  $connectTime how long connecting may take, in seconds
     * @param string $looked      where a server was looked for, said when none is there
     */
    public function __construct(string $target, string $host, float $connectTime, string $looked = '')
    {
        $this->looked = $looked;
        $this->target = $target;
        $this->host = $host;
        $this->connectTime = $connectTime;
    }

    public function __destruct()
    {
        $this->close();
    }

    /** Whether a connection is open, which the server may have closed meanwhile. */
    public function isOpen(): bool
    {
        return $this->stream !== null;
    }

    public function close(): void
    {
        if ($this->stream !== null) {
            @fclose($this->stream);
            $this->stream = null;
        }
        $this->buffer = '';
    }

    /**
     * Sends a request and reads its answer.
     *
     * @param array<string,string> $headers
     * @param float                $deadline when to give up, as `Http::clock()` counts
     *
     * @return array{status:int,headers:array<string,string>,body:string} header names in lower case
     *
     * @throws Unreachable|ConnectionLost|TimedOut|BadAnswer
     */
    public function exchange(string $method, string $path, array $headers, string $body, float $deadline): array
    {
        $head = "$method $path HTTP/1.1\r\nHost: $this->host\r\n";
        if ($body !== '' || $method === 'POST') {
            $headers['Content-Length'] = (string) strlen($body);
        }
        foreach ($headers as $name => $value) {
            $head .= "$name: $value\r\n";
        }
        if ($this->stream === null) {
            $this->connect($deadline);
        }
        try {
            $this->send("$head\r\n$body", $deadline);
            return $this->answer($deadline);
        } catch (ConnectionLost | TimedOut | BadAnswer $fault) {
            $this->close();
            throw $fault;
        }
    }

    /** Seconds on a clock that nobody sets. */
    public static function clock(): float
    {
        return function_exists('hrtime') ? hrtime(true) / 1e9 : microtime(true);
    }

    private function connect(float $deadline): void
    {
        $until = min($deadline, self::clock() + $this->connectTime);
        do {
            $errno = 0;
            $error = '';
            $left = max(0.001, $until - self::clock());
            $stream = $this->open($errno, $error, $left);
            if ($stream) {
                stream_set_blocking($stream, false);
                $this->stream = $stream;
                $this->buffer = '';
                return;
            }
            $retry = $errno === self::EAGAIN && self::clock() < $until;
            if ($retry && function_exists('usleep')) {
                usleep(self::FULL_PAUSE);
            }
        } while ($retry);
        $slow = self::clock() >= $until;
        $why = trim($error) === '' ? ($slow ? 'no connection in time' : 'no connection') : trim($error);
        throw new Unreachable("{$this->target}: $why" . $this->advice($errno), $errno, $slow);
    }

    /**
     * A connection, or `false`. Hosts that forbid one of the two functions mostly leave the other.
     *
     * @return resource|false
     */
    private function open(?int &$errno, ?string &$error, float $seconds)
    {
        if (function_exists('stream_socket_client')) {
            return @stream_socket_client($this->target, $errno, $error, $seconds);
        }
        if (!function_exists('fsockopen')) {
            throw Needs::lacking('stream_socket_client');
        }
        if (!preg_match('~^((?:tcp|tls)://.+):(\d+)$~D', $this->target, $match)) {
            return @fsockopen($this->target, -1, $errno, $error, $seconds);
        }
        return @fsockopen($match[1], (int) $match[2], $errno, $error, $seconds);
    }

    /** What to do about a socket that nobody answers on. */
    private function advice(int $errno): string
    {
        if (strncmp($this->target, 'unix://', 7) !== 0) {
            return '';
        }
        switch ($errno) {
            case 2: // ENOENT; ECONNREFUSED of Linux and of the BSDs
            case 111:
            case 61:
                return '. No server is running there: start it (comet start), or name the data folder of another one in comet-config.php'
                    . ' or with COMETSERVER_DATA_DIR' . ($this->looked === '' ? '' : ". $this->looked");
            case 13: // EACCES
                return '. The user of PHP may not open this socket: see socket_group in the configuration of the server';
            default:
                return '';
        }
    }

    private function send(string $bytes, float $deadline): void
    {
        $total = strlen($bytes);
        for ($sent = 0; $sent < $total;) {
            $written = @fwrite($this->stream, $sent === 0 ? $bytes : substr($bytes, $sent, self::PIECE));
            if ($written === false) {
                // It may have answered before it hung up, as with a body that is too large.
                return;
            }
            $sent += $written;
            if ($written === 0) {
                if (feof($this->stream)) {
                    return;
                }
                $this->await($deadline, false);
            }
        }
    }

    /** @return array{status:int,headers:array<string,string>,body:string} */
    private function answer(float $deadline): array
    {
        do {
            while (($end = strpos($this->buffer, "\r\n\r\n")) === false) {
                if (strlen($this->buffer) > self::MAX_HEAD) {
                    throw new BadAnswer('the answer has no end of its head');
                }
                $this->more($deadline);
            }
            $lines = explode("\r\n", substr($this->buffer, 0, $end));
            $this->buffer = substr($this->buffer, $end + 4);
            if (!preg_match('~^HTTP/1\.[01] (\d{3})~', array_shift($lines), $match)) {
                throw new BadAnswer('the answer is not HTTP');
            }
            $status = (int) $match[1];
        } while ($status < 200);
        $headers = [];
        foreach ($lines as $line) {
            [$name, $value] = explode(':', $line, 2) + [1 => ''];
            $headers[strtolower($name)] = trim($value);
        }
        $body = $this->body($status, $headers, $deadline);
        if (stripos($headers['connection'] ?? '', 'close') !== false) {
            $this->close();
        }
        return ['status' => $status, 'headers' => $headers, 'body' => $body];
    }

    /** @param array<string,string> $headers */
    private function body(int $status, array $headers, float $deadline): string
    {
        if ($status === 204 || $status === 304) {
            return '';
        }
        if (stripos($headers['transfer-encoding'] ?? '', 'chunked') !== false) {
            return $this->chunks($deadline);
        }
        if (isset($headers['content-length'])) {
            return $this->take((int) $headers['content-length'], $deadline);
        }
        try {
            while (strlen($this->buffer) <= self::MAX_ANSWER) {
                $this->more($deadline);
            }
        } catch (ConnectionLost $end) {
            $body = $this->buffer;
            $this->close();
            return $body;
        }
        throw new BadAnswer('the answer is too long');
    }

    private function chunks(float $deadline): string
    {
        $body = '';
        do {
            $size = $this->line($deadline);
            if (!preg_match('~^[0-9a-fA-F]{1,7}~', $size, $match)) {
                throw new BadAnswer('the answer has a chunk without a size');
            }
            $size = (int) hexdec($match[0]);
            if (strlen($body) + $size > self::MAX_ANSWER) {
                throw new BadAnswer('the answer is too long');
            }
            $body .= $this->take($size, $deadline);
            // The end of the chunk's data, or the trailers up to their empty line.
            while ($this->line($deadline) !== '' && $size === 0) {
            }
        } while ($size > 0);
        return $body;
    }

    private function line(float $deadline): string
    {
        while (($end = strpos($this->buffer, "\r\n")) === false) {
            if (strlen($this->buffer) > self::MAX_HEAD) {
                throw new BadAnswer('the answer has a line without an end');
            }
            $this->more($deadline);
        }
        $line = substr($this->buffer, 0, $end);
        $this->buffer = substr($this->buffer, $end + 2);
        return $line;
    }

    private function take(int $length, float $deadline): string
    {
        if ($length > self::MAX_ANSWER) {
            throw new BadAnswer('the answer is too long');
        }
        while (strlen($this->buffer) < $length) {
            $this->more($deadline);
        }
        $taken = substr($this->buffer, 0, $length);
        $this->buffer = (string) substr($this->buffer, $length);
        return $taken;
    }

    private function more(float $deadline): void
    {
        while (true) {
            // Read before waiting: with TLS there may be bytes that no select tells of.
            $piece = @fread($this->stream, self::PIECE);
            if ($piece !== false && $piece !== '') {
                $this->buffer .= $piece;
                return;
            }
            if ($piece === false || feof($this->stream)) {
                throw new ConnectionLost("{$this->target}: the connection ended before the answer");
            }
            $this->await($deadline, true);
        }
    }

    /** Waits until there is something to read, or room to write. */
    private function await(float $deadline, bool $reading): void
    {
        $left = $deadline - self::clock();
        if ($left <= 0) {
            throw new TimedOut("{$this->target}: no answer in time");
        }
        $streams = [$this->stream];
        $none = null;
        $seconds = (int) $left;
        $micros = (int) (($left - $seconds) * 1e6);
        // A signal ends it early, with a warning; whoever called looks again.
        if ($reading) {
            @stream_select($streams, $none, $none, $seconds, $micros);
        } else {
            @stream_select($none, $streams, $none, $seconds, $micros);
        }
    }
}
