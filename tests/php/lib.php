<?php
/**
 * What the tests of the PHP side share: a server each, web servers with PHP, pages that ask as browsers do.
 *
 * Every case is a process of its own with a folder of its own; whatever it starts it ends by its process id.
 */

declare(strict_types=1);

error_reporting(E_ALL);
set_error_handler(static function (int $level, string $message, string $file, int $line): bool {
    if ((error_reporting() & $level) === 0) {
        return false;
    }
    throw new ErrorException($message, 0, $level, $file, $line);
});

const ROOT = __DIR__ . '/../..';
/** How long anything may take that we wait for, in seconds: far more than it needs. */
const PATIENCE = 20.0;

final class Failed extends Exception
{
}

/** A test: its name says what should be so. */
function test(string $name, callable $body): void
{
    static $number = 0;
    $only = getenv('ONLY');
    if ($only !== false && $only !== '' && strpos($name, $only) === false) {
        return;
    }
    $began = microtime(true);
    $number++;
    try {
        $body();
        printf("ok %d - %s (%.1f s)\n", $number, $name, microtime(true) - $began);
    } catch (Skipped $skipped) {
        printf("ok %d - %s # SKIP %s\n", $number, $name, $skipped->getMessage());
    } catch (Throwable $error) {
        printf("not ok %d - %s (%.1f s)\n", $number, $name, microtime(true) - $began);
        $text = get_class($error) . ': ' . $error->getMessage() . "\n" . $error->getTraceAsString();
        echo preg_replace('~^~m', '#   ', $text), "\n";
    }
}

final class Skipped extends Exception
{
}

function same($expected, $actual, string $what = ''): void
{
    if ($expected !== $actual) {
        throw new Failed(trim("$what\nexpected " . shown($expected) . "\n     got " . shown($actual)));
    }
}

function yes($truth, string $what): void
{
    if (!$truth) {
        throw new Failed($what);
    }
}

/** Runs it and gives what it throws, which has to be of this class. */
function throws(string $class, callable $body): Throwable
{
    try {
        $body();
    } catch (Throwable $error) {
        yes($error instanceof $class, "expected $class, got " . get_class($error) . ': ' . $error->getMessage());
        return $error;
    }
    throw new Failed("expected $class, nothing was thrown");
}

function shown($value): string
{
    $text = is_string($value) ? json_encode($value, JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE) : var_export($value, true);
    return strlen($text) > 1500 ? substr($text, 0, 1500) . '…' : $text;
}

/** Waits until it is so. */
function until(string $what, callable $is)
{
    $until = microtime(true) + PATIENCE;
    do {
        $value = $is();
        if ($value) {
            return $value;
        }
        usleep(10000);
    } while (microtime(true) < $until);
    throw new Failed("waited in vain: $what");
}

/** A folder of this process's own, removed at its end. */
function folder(string $name = ''): string
{
    static $base = null;
    if ($base === null) {
        $base = sys_get_temp_dir() . '/comet-php-' . getmypid() . '-' . bin2hex(random_bytes(3));
        mkdir($base, 0755);
        $owner = getmypid();
        register_shutdown_function(static function () use ($base, $owner): void {
            if (getmypid() === $owner) {
                Process::endAll();
                end_servers($base);
                // A link to a folder is removed, not followed.
                exec('rm -rf ' . escapeshellarg($base));
            }
        });
    }
    static $number = 0;
    $folder = $name === '' ? "$base/" . ++$number : "$base/$name";
    if (!is_dir($folder)) {
        mkdir($folder, 0755, true);
    }
    return $folder;
}

/** Ends the servers in the background whose data is in a folder: a test that fails does not come to stopping its own. */
function end_servers(string $base): void
{
    foreach (explode("\n", trim((string) shell_exec('find ' . escapeshellarg($base) . ' -name comet.pid'))) as $file) {
        $pid = $file === '' ? 0 : (int) @file_get_contents($file);
        // Its number may have become another's.
        if ($pid > 0 && strpos((string) @file_get_contents("/proc/$pid/cmdline"), $base) !== false) {
            posix_kill($pid, SIGTERM);
        }
    }
}

/** A process that ends with us. */
final class Process
{
    /** @var Process[] */
    private static array $all = [];

    /** @var resource */
    private $process;
    public int $pid;
    public string $log;

    /** @param string[] $command */
    public function __construct(array $command, ?array $environment = null, ?string $cwd = null)
    {
        $this->log = folder() . '/output';
        $out = ['file', $this->log, 'a'];
        $pipes = [];
        $environment = ($environment ?? []) + ['PATH' => getenv('PATH'), 'HOME' => folder('home')];
        $this->process = proc_open($command, [['file', '/dev/null', 'r'], $out, $out], $pipes, $cwd, $environment);
        $this->pid = proc_get_status($this->process)['pid'];
        self::$all[$this->pid] = $this;
    }

    public function isRunning(): bool
    {
        return proc_get_status($this->process)['running'];
    }

    public function end(int $signal = 15): void
    {
        if ($this->isRunning()) {
            proc_terminate($this->process, $signal);
        }
        $until = microtime(true) + 10;
        while ($this->isRunning() && microtime(true) < $until) {
            usleep(5000);
        }
        if ($this->isRunning()) {
            proc_terminate($this->process, 9);
        }
        proc_close($this->process);
        unset(self::$all[$this->pid]);
    }

    public function output(): string
    {
        return (string) file_get_contents($this->log);
    }

    public static function endAll(): void
    {
        foreach (self::$all as $process) {
            $process->end();
        }
    }
}

/** A CometServer. */
final class Server
{
    public string $data;
    public string $socket;
    public string $public;
    private array $arguments;
    private ?Process $process = null;

    /** @param string[] $arguments of `comet serve` */
    public function __construct(array $arguments = [], ?string $data = null)
    {
        $this->data = $data ?? folder();
        $this->socket = $this->data . '/comet.sock';
        $this->public = $this->data . '/public/comet.sock';
        $this->arguments = $arguments;
        $this->start();
    }

    /** One with what an older server kept: in `odd` and `odd/value` JSON that some reader refuses. */
    public static function withOldLog(): self
    {
        $data = folder();
        mkdir("$data/log");
        foreach (glob(ROOT . '/crates/server/tests/fixtures/log-odd-json/*') as $file) {
            copy($file, "$data/log/" . basename($file));
        }
        return new self(['--set', 'namespace_default.history.age=36500d'], $data);
    }

    public static function binary(): string
    {
        $binary = getenv('COMET_BINARY');
        return $binary === false || $binary === '' ? ROOT . '/target/debug/comet' : $binary;
    }

    public function start(): void
    {
        $this->process = new Process(array_merge([self::binary(), 'serve', '--data-dir', $this->data, '--shutdown-drain', '1s', '--shutdown-spread', '100ms'], $this->arguments));
        until('the server answers', function (): bool {
            if (!$this->process->isRunning()) {
                throw new Failed('the server has ended: ' . $this->process->output());
            }
            return answers($this->socket);
        });
    }

    public function stop(int $signal = 15): void
    {
        $this->process->end($signal);
    }

    /** One of the server's counters, as `GET /v1/stats` has them. */
    public function stats(): array
    {
        return json_decode(http("unix://$this->socket", 'GET', '/v1/stats')['body'], true);
    }

    /** Runs a command of the CLI; gives its output. */
    public function cli(string ...$words): string
    {
        return comet(...array_merge($words, ['--data-dir', $this->data]));
    }

    /** @return string[] the texts of a channel's history */
    public function texts(string $channel): array
    {
        $answer = http("unix://$this->socket", 'GET', '/v1/history?limit=1000&channel=' . urlencode($channel));
        return array_column(json_decode($answer['body'], true)['publications'], 'data');
    }

    /** How many polls and streams are held. */
    public function held(): int
    {
        $text = http("unix://$this->socket", 'GET', '/metrics')['body'];
        preg_match_all('~^cometserver_connections\{transport="(?:poll|sse|stream)"\} (\d+)~m', $text, $found);
        same(3, count($found[1]), 'counters of what is held');
        return (int) array_sum($found[1]);
    }
}

function comet(string ...$words): string
{
    $line = implode(' ', array_map('escapeshellarg', array_merge([Server::binary()], $words)));
    return (string) shell_exec("env -u COMETSERVER_SOCKET -u COMETSERVER_DATA_DIR $line 2>&1");
}

/** The address of a port that is free now. */
function freeAddress(): string
{
    $socket = stream_socket_server('tcp://127.0.0.1:0');
    $address = stream_socket_get_name($socket, false);
    fclose($socket);
    return $address;
}

function answers(string $socket): bool
{
    $stream = @stream_socket_client(strpos($socket, '/') === 0 ? "unix://$socket" : "tcp://$socket", $errno, $error, 1);
    if ($stream) {
        fclose($stream);
    }
    return (bool) $stream;
}

/** A request under way. */
final class Pending
{
    /** @var resource */
    public $stream;
    public string $bytes = '';

    public function __construct(string $target, string $method, string $path, array $headers = [], string $body = '')
    {
        $this->stream = stream_socket_client($target, $errno, $error, PATIENCE);
        $head = "$method $path HTTP/1.0\r\n";
        $headers += ['Host' => 'localhost'];
        if ($body !== '' || $method === 'POST') {
            $headers += ['Content-Length' => (string) strlen($body)];
        }
        foreach ($headers as $name => $value) {
            $head .= "$name: $value\r\n";
        }
        fwrite($this->stream, "$head\r\n$body");
        stream_set_blocking($this->stream, false);
    }

    /** Reads what has come; true at the end. */
    public function ended(): bool
    {
        while (is_resource($this->stream)) {
            $piece = @fread($this->stream, 65536);
            if ($piece === '' || $piece === false) {
                if (feof($this->stream)) {
                    fclose($this->stream);
                    return true;
                }
                return false;
            }
            $this->bytes .= $piece;
        }
        return true;
    }

    /** @return array{status:int,headers:array<string,string>,body:string,cookies:string[]} */
    public function answer(): array
    {
        until('the answer', fn (): bool => $this->ended());
        $end = strpos($this->bytes, "\r\n\r\n");
        yes($end !== false, 'no HTTP answer: ' . shown($this->bytes));
        $lines = explode("\r\n", substr($this->bytes, 0, $end));
        preg_match('~^(?:HTTP/1\.\d|Status:) ?(\d{3})~', $lines[0], $match);
        $headers = $cookies = [];
        foreach ($lines as $line) {
            [$name, $value] = explode(':', $line, 2) + [1 => ''];
            $headers[strtolower($name)] = trim($value);
            if (strtolower($name) === 'set-cookie') {
                $cookies[] = explode(';', trim($value))[0];
            }
        }
        return ['status' => (int) ($match[1] ?? $headers['status'] ?? 200), 'headers' => $headers, 'body' => substr($this->bytes, $end + 4), 'cookies' => $cookies];
    }

    public function hangUp(): void
    {
        fclose($this->stream);
    }
}

/** @return array{status:int,headers:array<string,string>,body:string,cookies:string[]} */
function http(string $target, string $method, string $path, array $headers = [], string $body = ''): array
{
    return (new Pending($target, $method, $path, $headers, $body))->answer();
}

/** PHP's own web server, for one request at a time: with workers it may answer late, and leaves them behind when it is ended. */
final class CliServer
{
    public string $target;
    public string $root;
    public Process $process;

    public function __construct(string $root, array $environment = [])
    {
        $address = freeAddress();
        $this->root = $root;
        $this->target = "tcp://$address";
        $command = [PHP_BINARY, '-d', 'error_reporting=32767', '-d', 'display_errors=1', '-d', 'html_errors=0', '-S', $address, '-t', $root];
        $this->process = new Process($command, $environment, $root);
        until('php -S answers', fn (): bool => answers($address));
    }

    public function get(string $path, array $headers = []): array
    {
        return http($this->target, 'GET', $path, $headers);
    }

    public function begin(string $path, array $headers = []): Pending
    {
        return new Pending($this->target, 'GET', $path, $headers);
    }

    public function post(string $path, string $body, array $headers = []): array
    {
        return http($this->target, 'POST', $path, $headers + ['Content-Type' => 'application/x-www-form-urlencoded'], $body);
    }
}

/** A site in PHP-FPM, asked over FastCGI as a front web server does. */
final class Web
{
    public string $address;
    public string $root;
    public Process $process;
    private string $config;

    /** @var string[] what it is started by */
    private array $prefix;

    public static function binary(): ?string
    {
        $found = glob('/usr/sbin/php-fpm*') ?: [];
        return $found === [] ? null : end($found);
    }

    /**
     * @param string[] $settings of php.ini
     * @param string[] $prefix   a program that starts it, with its arguments; root's workers are then nobody's
     */
    public function __construct(string $root, array $settings = [], int $workers = 8, ?string $address = null, array $prefix = [])
    {
        $this->prefix = $prefix;
        if (self::binary() === null) {
            throw new Skipped('php-fpm is not installed');
        }
        $folder = folder();
        $this->root = $root;
        $this->address = $address ?? "$folder/fpm.sock";
        $name = $prefix === [] ? 'root' : 'nobody';
        $group = $prefix === [] ? 'root' : 'nogroup';
        $user = posix_geteuid() === 0 ? "user = $name\ngroup = $group\n" : '';
        $this->config = "$folder/fpm.conf";
        $lines = "[global]\nerror_log = $folder/fpm.log\ndaemonize = no\n[www]\n{$user}listen = $this->address\npm = static\npm.max_children = $workers\n"
            . "php_admin_value[display_errors] = 1\nphp_admin_value[html_errors] = 0\nphp_admin_value[error_reporting] = 32767\n";
        foreach ($settings as $setting) {
            [$name, $value] = explode('=', $setting, 2);
            $lines .= "php_admin_value[$name] = $value\n";
        }
        file_put_contents($this->config, $lines);
        $this->start();
    }

    public function start(): void
    {
        $command = array_merge($this->prefix, [self::binary(), '-F', '-y', $this->config]);
        if (posix_geteuid() === 0) {
            $command[] = '-R';
        }
        $this->process = new Process($command);
        until('php-fpm answers', function (): bool {
            yes($this->process->isRunning(), 'php-fpm has ended: ' . $this->process->output() . @file_get_contents(dirname($this->config) . '/fpm.log'));
            return answers($this->address);
        });
    }

    public function begin(string $path, array $headers = [], string $method = 'GET', string $body = ''): FastCgi
    {
        [$file, $query] = explode('?', $path, 2) + [1 => ''];
        $end = strpos($file, '.php');
        $script = substr($file, 0, $end + 4);
        $parameters = [
            'SCRIPT_FILENAME' => $this->root . $script,
            'SCRIPT_NAME' => $script,
            'PATH_INFO' => substr($file, $end + 4),
            'REQUEST_URI' => $path,
            'DOCUMENT_ROOT' => $this->root,
            'QUERY_STRING' => $query,
            'REQUEST_METHOD' => $method,
            'REMOTE_ADDR' => '192.0.2.1',
            'SERVER_PROTOCOL' => 'HTTP/1.1',
            'HTTP_HOST' => 'localhost',
        ];
        if ($method === 'POST') {
            $parameters['CONTENT_LENGTH'] = (string) strlen($body);
        }
        foreach ($headers as $name => $value) {
            $name = strtoupper(strtr($name, '-', '_'));
            $parameters[$name === 'CONTENT_TYPE' ? $name : "HTTP_$name"] = $value;
        }
        return new FastCgi($this->address, array_filter($parameters, static fn (string $value): bool => $value !== ''), $body);
    }

    public function get(string $path, array $headers = []): array
    {
        return $this->begin($path, $headers)->answer();
    }

    public function ask(string $method, string $path): array
    {
        return $this->begin($path, [], $method)->answer();
    }

    public function post(string $path, string $body, array $headers = []): array
    {
        return $this->begin($path, $headers + ['Content-Type' => 'application/x-www-form-urlencoded'], 'POST', $body)->answer();
    }
}

/** One FastCGI request. */
final class FastCgi
{
    /** @var resource */
    private $stream;
    private string $buffer = '';
    public string $bytes = '';
    private bool $over = false;

    public function __construct(string $address, array $parameters, string $body = '')
    {
        $this->stream = stream_socket_client(strpos($address, '/') === 0 ? "unix://$address" : "tcp://$address", $errno, $error, PATIENCE);
        $record = static fn (int $type, string $content): string => pack('CCnnCC', 1, $type, 1, strlen($content), 0, 0) . $content;
        $bytes = $record(1, pack('nCx5', 1, 0));
        $size = static fn (int $length): string => $length < 128 ? chr($length) : pack('N', $length | 0x80000000);
        foreach ($parameters as $name => $value) {
            $bytes .= $record(4, $size(strlen($name)) . $size(strlen($value)) . $name . $value);
        }
        $bytes .= $record(4, '');
        foreach ($body === '' ? [] : str_split($body, 60000) as $piece) {
            $bytes .= $record(5, $piece);
        }
        $bytes .= $record(5, '');
        stream_set_blocking($this->stream, false);
        until('the request is sent', function () use (&$bytes): bool {
            $this->ended();
            $sent = $this->over ? strlen($bytes) : (int) @fwrite($this->stream, $bytes);
            $bytes = (string) substr($bytes, $sent);
            return $bytes === '';
        });
    }

    /** Reads what has come; true at the end. */
    public function ended(): bool
    {
        while (!$this->over) {
            $piece = @fread($this->stream, 65536);
            if ($piece === '' || $piece === false) {
                $this->over = feof($this->stream);
                return $this->over;
            }
            $this->buffer .= $piece;
            while (strlen($this->buffer) >= 8) {
                $head = unpack('Cversion/Ctype/nid/nlength/Cpadding/Cx', $this->buffer);
                if (strlen($this->buffer) < 8 + $head['length'] + $head['padding']) {
                    break;
                }
                if ($head['type'] === 6) {
                    $this->bytes .= substr($this->buffer, 8, $head['length']);
                }
                $this->over = $this->over || $head['type'] === 3;
                $this->buffer = (string) substr($this->buffer, 8 + $head['length'] + $head['padding']);
            }
        }
        return true;
    }

    public function answer(): array
    {
        until('the answer of FPM', fn (): bool => $this->ended());
        return cgiAnswer($this->bytes);
    }

    public function hangUp(): void
    {
        fclose($this->stream);
    }
}

/** What a CGI program printed. */
function cgiAnswer(string $output): array
{
    [$head, $body] = preg_split('~\r?\n\r?\n~', $output, 2) + [1 => ''];
    $headers = $cookies = [];
    foreach (preg_split('~\r?\n~', $head) as $line) {
        [$name, $value] = explode(':', $line, 2) + [1 => ''];
        $headers[strtolower($name)] = trim($value);
        if (strtolower($name) === 'set-cookie') {
            $cookies[] = explode(';', trim($value))[0];
        }
    }
    return ['status' => (int) ($headers['status'] ?? 200), 'headers' => $headers, 'body' => $body, 'cookies' => $cookies];
}

/** Does it in a process of its own, at the same time; `join()` waits for all of them. */
function beside(callable $body): void
{
    global $children;
    $pid = pcntl_fork();
    if ($pid === 0) {
        try {
            $body();
            $status = 0;
        } catch (Throwable $error) {
            fwrite(STDERR, '# beside: ' . $error->getMessage() . "\n");
            $status = 1;
        }
        // Without the shutdown functions, which are the parent's.
        posix_kill(getmypid(), $status === 0 ? SIGKILL : SIGABRT);
    }
    $children[] = $pid;
}

function join_all(): void
{
    global $children;
    foreach ($children ?? [] as $pid) {
        pcntl_waitpid($pid, $status);
        yes(pcntl_wifsignaled($status) && pcntl_wtermsig($status) === SIGKILL, 'something failed in a process beside');
    }
    $children = [];
}

/** Copies a folder. */
function copy_all(string $from, string $to): void
{
    exec('mkdir -p ' . escapeshellarg($to) . ' && cp -r ' . escapeshellarg($from) . '/. ' . escapeshellarg($to), $out, $status);
    same(0, $status, "copying $from");
}
