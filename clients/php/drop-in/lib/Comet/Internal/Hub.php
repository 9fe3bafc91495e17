<?php

namespace Comet\Internal;

/**
 * The server, as these classes need it: found, started if it may be, asked over its Unix socket.
 *
 * No process is started for a request; one connection each, which blocks in the kernel while there is nothing to tell.
 */
class Hub
{
    /** How long connecting may take, in seconds. */
    const CONNECT_TIME = 0.3;

    /** How long an answer may take that need not wait, in seconds. */
    const ANSWER_TIME = 2.0;

    /** How much later than asked for a held answer may come, in seconds. */
    const SLACK = 3.0;

    /** The most an answer may have. */
    const MAX_ANSWER = 67108864;

    /** How deep an answer may be nested, in brackets: PHP reads 512 if it is not told. */
    const MAX_DEPTH = 4096;

    /** How often a refresh makes good that it came between others' writes: each time somebody wrote in that very moment. */
    const REPEATS = 50;

    /** By which event a refresh is told from a new value. */
    const REFRESH = 'refresh';

    /** The data folder of a server that root runs. */
    const ROOT_DATA_DIR = '/var/lib/cometserver';

    private $config;
    private $mayStart;

    private static $shared;

    public function __construct()
    {
        $this->config = self::locate();
        $this->mayStart = !empty($this->config['start']);
    }

    /** One for all objects of a request. */
    public static function shared()
    {
        if (self::$shared === null) {
            self::$shared = new self();
        }
        return self::$shared;
    }

    /** The folder that all this is in. */
    public static function root()
    {
        return dirname(dirname(dirname(dirname(__FILE__))));
    }

    /** A setting, or `null`. */
    public function setting($name)
    {
        return isset($this->config[$name]) ? $this->config[$name] : null;
    }

    /**
     * Writes the value of a key; everybody who listens is told.
     *
     * @param string $depth how the old wire is to encode it: `web` or `cli`
     */
    public function write($key, $text, $depth)
    {
        $this->publish($key, $text, self::isUtf8($text) ? 'text' : 'binary', $depth, array());
    }

    /** Shows the value of a key once more to everybody who listens. Nothing happens if there is none. */
    public function repeat($key)
    {
        $value = $this->retained($key);
        for ($tries = 0; $value !== null && $tries < self::REPEATS; $tries++) {
            $last = $tries === 0 ? (int) $value['offset'] : $offset;
            $text = Value::text($value);
            $kind = isset($value['seed_token']) ? 'text' : (isset($value['kind']) ? $value['kind'] : 'json');
            $offset = $this->publish($key, $text, $kind, 'web', array('event' => self::REFRESH));
            if ($offset <= $last + 1) {
                return;
            }
            // Somebody has written between our look and our writing: was it a newer value, which ours has overwritten?
            $value = $this->newest($key);
            if ($value === null || Value::text($value) === $text) {
                return;
            }
        }
    }

    /** What a key holds, as a publication of the protocol, or `null`. */
    public function retained($key)
    {
        $answer = $this->ask('GET', '/v1/retained', array('channel' => $key));
        return $answer['status'] === 404 ? null : self::check($answer);
    }

    /**
     * Some of the keys with what they hold, in the order in which they were made.
     *
     * @param string|null $after `next` of the page before
     *
     * @return array `values`: pairs of a key and its publication; `next`: `null` on the last page
     */
    public function values($after)
    {
        $query = array('retained' => '1', 'values' => '1', 'limit' => '500');
        $page = $this->demand('GET', '/v1/channels', $after === null ? $query : $query + array('after' => (string) $after));
        $values = array();
        foreach (isset($page['channels']) ? $page['channels'] : array() as $entry) {
            $key = isset($entry['channel_base64']) ? (string) base64_decode($entry['channel_base64']) : (string) $entry['channel'];
            // Written or deleted while the server was looking: ask again, and leave out what is gone.
            $value = isset($entry['value']) ? $entry['value'] : $this->retained($key);
            if ($value !== null) {
                $values[] = array($key, $value);
            }
        }
        return array('values' => $values, 'next' => isset($page['next']) ? $page['next'] : null);
    }

    /** The cursor of now. */
    public function now()
    {
        $answer = $this->demand('GET', '/v1/now', array());
        return isset($answer['cursor']) ? (string) $answer['cursor'] : '';
    }

    /**
     * What came after a cursor, as soon as there is something.
     *
     * @param string|null $cursor  `null`: from now
     * @param float       $wait    for how long at most, in seconds
     * @param string|null $route   whose budget of held requests it is counted against
     * @param string|null $session a name; a new call of the same name ends the older one
     * @param bool        $present begin with the value that is there
     *
     * @return array `publications`, `cursor`, and perhaps `retry_ms`
     */
    public function poll($key, $cursor, $wait, $route = null, $session = null, $present = false)
    {
        $query = array('channel' => $key, 'wait_ms' => (string) (int) round($wait * 1000), 'retained' => $present ? '1' : '0');
        foreach (array('cursor' => $cursor, 'route' => $route, 'session' => $session) as $name => $value) {
            if ($value !== null && $value !== '') {
                $query[$name] = $value;
            }
        }
        $answer = $this->demand('GET', '/v1/poll', $query, '', $wait + self::SLACK);
        if (!isset($answer['publications'], $answer['cursor'])) {
            throw new \RuntimeException('the answer to a poll is not that of a CometServer');
        }
        return $answer;
    }

    /** Ends what a session holds on a key. */
    public function release($session, $key)
    {
        $this->ask('POST', '/v1/release', array('session' => $session, 'channel' => $key));
    }

    /** Does a server answer? */
    public function isRunning()
    {
        try {
            fclose($this->connect());
            return true;
        } catch (\RuntimeException $fault) {
            return false;
        }
    }

    /**
     * Starts it, if the configuration allows that; gives '' or why not.
     *
     * @param bool $asked somebody asks for just that on the command line, who may start programs anyway
     */
    public function start($asked = false)
    {
        if (!$asked && !$this->mayStart) {
            return 'the server is started from the command line: Comet start, or comet start; or let PHP do it with start in comet-config.php';
        }
        if (!self::starter()) {
            return 'the file start.php is missing in ' . self::root() . ': the server is started with comet start';
        }
        $result = \CometServerStart::ensure($this->config);
        return $result['running'] ? '' : $result['message'];
    }

    /** A request of the older wire protocol, and its answer, both with their terminator. */
    public function wire($request)
    {
        $stream = $this->connect();
        $answer = $this->talk($stream, $request, self::ANSWER_TIME);
        return $answer;
    }

    /** A folder for small files that nobody else can write to, or `null`. */
    public function stateFolder()
    {
        return self::starter() ? \CometServerStart::stateFolder($this->config) : null;
    }

    /** Is it UTF-8? */
    public static function isUtf8($text)
    {
        return preg_match('//u', $text) === 1;
    }

    /** Gives its number among what was written under the key. */
    private function publish($key, $text, $kind, $depth, array $more)
    {
        // What is no UTF-8 came over the old wire.
        $kind = $kind === 'text' && !self::isUtf8($text) ? 'binary' : $kind;
        $answer = $this->demand('POST', '/v1/publish', $more + array(
            'channel' => $key,
            'kind' => $kind,
            'retain' => '1',
            'seed_depth' => $depth,
            'idempotency_key' => self::randomName(),
        ), $text);
        return isset($answer['channels'][0]['offset']) ? (int) $answer['channels'][0]['offset'] : 0;
    }

    /** What was written last, refreshes left out, if it was kept. */
    private function newest($key)
    {
        $history = $this->demand('GET', '/v1/history', array('channel' => $key, 'limit' => '100', 'reverse' => '1'));
        foreach ($history['publications'] as $publication) {
            if (!isset($publication['event']) || $publication['event'] !== self::REFRESH) {
                return $publication;
            }
        }
        return null;
    }

    /** As `ask()`, but anything but success is an exception with the reason. */
    private function demand($method, $path, array $query, $body = '', $seconds = self::ANSWER_TIME)
    {
        return self::check($this->ask($method, $path, $query, $body, $seconds));
    }

    private static function check(array $answer)
    {
        $value = self::decoded($answer['body']);
        if ($answer['status'] === 200 && is_array($value)) {
            return $value;
        }
        $detail = is_array($value) && isset($value['detail']) ? $value['detail'] : 'HTTP status ' . $answer['status'];
        throw new \RuntimeException((string) $detail, $answer['status']);
    }

    /**
     * JSON, also with values that PHP does not read and an older server took: half a surrogate pair becomes U+FFFD, and what is
     * nested deeply is read all the same.
     */
    private static function decoded($json)
    {
        $value = json_decode($json, true);
        if ($value !== null || $json === 'null') {
            return $value;
        }
        $unit = '[0-9a-fA-F]{2}';
        // Every escape in turn, so that none begins within another; of surrogates only pairs are left alone.
        $escapes = '~\\\\(?:u[dD][89abAB]' . $unit . '\\\\u[dD][c-fC-F]' . $unit . '(*SKIP)(*FAIL)|u[dD][89a-fA-F]' . $unit . '|[^u](*SKIP)(*FAIL))~s';
        return json_decode((string) preg_replace($escapes, '\\\\ufffd', $json), true, self::MAX_DEPTH);
    }

    /** One request. Sent again once if the connection ends before the answer: what changes something has a key for that. */
    private function ask($method, $path, array $query, $body = '', $seconds = self::ANSWER_TIME)
    {
        $head = $method . ' ' . $path . ($query ? '?' . http_build_query($query, '', '&') : '') . " HTTP/1.0\r\nHost: localhost\r\n";
        if ($method === 'POST') {
            $head .= 'Content-Length: ' . strlen($body) . "\r\nContent-Type: application/octet-stream\r\n";
        }
        $answer = '';
        for ($attempt = 0; $answer === '' && $attempt < 2; $attempt++) {
            $answer = $this->talk($this->connect(), $head . "\r\n" . $body, $seconds);
        }
        if (!preg_match('~^HTTP/1\.[01] (\d{3})~', $answer, $status) || ($end = strpos($answer, "\r\n\r\n")) === false) {
            throw new \RuntimeException('the connection ended before the answer');
        }
        $body = (string) substr($answer, $end + 4);
        if (preg_match('~\r\nContent-Length: *(\d+)~i', substr($answer, 0, $end), $length) && strlen($body) !== (int) $length[1]) {
            throw new \RuntimeException('the connection ended within the answer');
        }
        return array('status' => (int) $status[1], 'body' => $body);
    }

    /** Says something, and gives what comes until the other side closes. */
    private function talk($stream, $request, $seconds)
    {
        $until = microtime(true) + $seconds;
        stream_set_blocking($stream, false);
        for ($sent = 0; $sent < strlen($request); $sent += $written) {
            $written = @fwrite($stream, $sent === 0 ? $request : substr($request, $sent, 65536));
            if ($written === false || ($written === 0 && feof($stream))) {
                break;
            }
            if ($written === 0) {
                self::await($stream, $until, false);
            }
        }
        $answer = '';
        while (strlen($answer) < self::MAX_ANSWER) {
            $piece = @fread($stream, 65536);
            if ($piece !== false && $piece !== '') {
                $answer .= $piece;
            } elseif ($piece === false || feof($stream)) {
                break;
            } else {
                self::await($stream, $until, true);
            }
        }
        fclose($stream);
        return $answer;
    }

    private static function await($stream, $until, $reading)
    {
        $left = $until - microtime(true);
        if ($left <= 0) {
            fclose($stream);
            throw new \RuntimeException('the server did not answer in time');
        }
        $read = $reading ? array($stream) : null;
        $write = $reading ? null : array($stream);
        $except = null;
        @stream_select($read, $write, $except, (int) $left, (int) (($left - (int) $left) * 1000000));
    }

    private function connect()
    {
        $until = microtime(true) + self::CONNECT_TIME;
        while (true) {
            $errno = 0;
            $error = '';
            $stream = self::open('unix://' . $this->config['socket'], $errno, $error);
            if ($stream) {
                return $stream;
            }
            // EAGAIN: its backlog is full, and a Unix socket does not queue.
            if ($errno === 11 && microtime(true) < $until) {
                self::pause(0.01);
            } elseif ($this->mayStart && in_array($errno, array(2, 111, 61), true) && $this->start() === '') {
                $this->mayStart = false;
            } else {
                $notRunning = in_array($errno, array(2, 111, 61), true);
                throw new \RuntimeException($notRunning
                    ? 'Server is not running: nobody answers at ' . $this->config['socket'] . '. Start it with Comet start, or name its data folder as data_dir in '
                        . self::root() . '/comet-config.php'
                    : 'the server cannot be reached at ' . $this->config['socket'] . ': ' . $error, $errno);
            }
        }
    }

    /** A connection, or `false`. Hosts that forbid one of the two functions mostly leave the other. */
    private static function open($target, &$errno, &$error)
    {
        if (function_exists('stream_socket_client')) {
            return @stream_socket_client($target, $errno, $error, self::CONNECT_TIME);
        }
        if (!function_exists('fsockopen')) {
            throw Needs::lacking('stream_socket_client');
        }
        return @fsockopen($target, -1, $errno, $error, self::CONNECT_TIME);
    }

    /** Waits for so many seconds, if PHP may. */
    public static function pause($seconds)
    {
        if (function_exists('usleep')) {
            usleep((int) ($seconds * 1000000));
        } elseif (function_exists('time_nanosleep')) {
            time_nanosleep(0, (int) ($seconds * 1000000000));
        }
    }

    /** COMETSERVER_SOCKET, COMETSERVER_DATA_DIR, else comet-config.php beside this folder or in it, else the default. */
    private static function locate()
    {
        $config = array();
        foreach (array(self::root(), dirname(self::root())) as $folder) {
            if (@is_file($folder . '/comet-config.php')) {
                $config = include $folder . '/comet-config.php';
                $config = is_array($config) ? $config : array();
                break;
            }
        }
        $socket = self::variable('COMETSERVER_SOCKET');
        $folder = self::variable('COMETSERVER_DATA_DIR');
        if ($socket !== null || $folder !== null) {
            $config['socket'] = $socket;
            $config['data_dir'] = $folder;
        }
        if (empty($config['data_dir'])) {
            $folders = self::defaultDataDirs();
            $config['data_dir'] = $folders[0];
            // PHP-FPM has a user of its own, whose home says nothing of the machine's server.
            if (isset($folders[1]) && !@file_exists($folders[0] . '/comet.sock') && @file_exists($folders[1] . '/comet.sock')) {
                $config['data_dir'] = $folders[1];
            }
        }
        if (empty($config['socket'])) {
            $config['socket'] = rtrim($config['data_dir'], '/') . '/comet.sock';
        }
        return $config;
    }

    /** Where a server may be that nobody has named: this user's, the machine's. */
    private static function defaultDataDirs()
    {
        $user = function_exists('posix_geteuid') ? posix_geteuid() : null;
        $state = self::variable('XDG_STATE_HOME');
        $home = self::variable('HOME');
        if ($home === null && $user !== null && function_exists('posix_getpwuid')) {
            $entry = posix_getpwuid($user);
            $home = $entry ? $entry['dir'] : null;
        }
        if ($user !== 0 && $state !== null && $state[0] === '/') {
            return array($state . '/cometserver', self::ROOT_DATA_DIR);
        }
        if ($user !== 0 && $home !== null && $home !== '') {
            return array(rtrim($home, '/') . '/.local/state/cometserver', self::ROOT_DATA_DIR);
        }
        return array(self::ROOT_DATA_DIR);
    }

    private static function variable($name)
    {
        $value = function_exists('getenv') ? getenv($name) : false;
        if ($value === false || $value === '') {
            $value = isset($_SERVER[$name]) ? $_SERVER[$name] : null;
        }
        return is_string($value) && $value !== '' ? $value : null;
    }

    private static function starter()
    {
        foreach (array(self::root(), dirname(self::root())) as $folder) {
            if (!class_exists('CometServerStart', false) && @is_file($folder . '/start.php')) {
                require_once $folder . '/start.php';
            }
        }
        return class_exists('CometServerStart', false);
    }

    /** Nobody has to be unable to guess it: it only has to differ. */
    private static function randomName()
    {
        return md5(uniqid((string) mt_rand(), true));
    }
}
