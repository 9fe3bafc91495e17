<?php
/**
 * The bridge: a browser's way to a CometServer through ordinary PHP, where no port can be opened and no proxy configured.
 *
 * Upload this file, and beside it `comet-config.php` that says where the data folder is. It passes on what a visitor
 * may ask for anyway (poll, sse, renew, now, history, presence, publish), with the visitor's own token, to the server's public
 * socket: that a request came through PHP proves nothing about who asks. Every waiting visitor occupies a PHP worker, so
 * the server gives out a small number of places and tells the others when to come back.
 *
 * PHP 5.6 to 8.x, no extension. README.md beside it has the rest.
 */

final class CometBridge
{
    /** What is passed on: the call, its method, its parameters. */
    private static $calls = array(
        'poll' => array('GET', 'channel pattern cursor retained presence join watch info token wait_ms limit session'),
        'sse' => array('GET', 'channel pattern cursor retained presence join watch info token session preamble_ms heartbeat_ms lastEventId lastEventID Last-Event-ID'),
        'now' => array('GET', 'token'),
        'history' => array('GET', 'channel since limit reverse token'),
        'presence' => array('GET', 'channel limit token'),
        'publish' => array('POST', 'channel kind event id retain idempotency_key exclude_session token'),
        'release' => array('POST', 'channel pattern session token'),
        'renew' => array('GET', 'session token'),
    );

    /**
     * What of the visitor's head is passed on, beside host, origin, token and address: name here, name
     * there, form, and what stands in for another form: what cannot be a cursor of the server's is a gap, and a tag like
     * none. */
    private static $taken = array(
        array('HTTP_ACCEPT', 'Accept', '~^[\x20-\x7E]{1,200}$~D'),
        array('CONTENT_TYPE', 'Content-Type', '~^[\x20-\x7E]{1,200}$~D'),
        array('HTTP_ORIGIN', 'Origin', '~^[\x21-\x7E]{1,300}$~D'),
        array('HTTP_IF_NONE_MATCH', 'If-None-Match', '~^[\x20-\x7E]{1,500}$~D', ''),
        array('HTTP_LAST_EVENT_ID', 'Last-Event-ID', '~^[\x21-\x7E]{1,500}$~D', '?'),
    );

    /** What of the answer's head is passed on. */
    private static $given = array('content-type', 'etag', 'cache-control', 'vary', 'retry-after', 'allow', 'www-authenticate',
        'access-control-allow-origin', 'access-control-allow-credentials', 'access-control-expose-headers', 'x-content-type-options');

    /** The functions of PHP that this needs, which hosts may forbid with `disable_functions`. What is not here is done without. */
    private static $needs = array('array_diff_key', 'array_merge', 'array_shift', 'class_exists', 'connection_aborted', 'explode', 'fclose', 'feof',
        'file_get_contents', 'filter_var', 'flush', 'fopen', 'fread', 'fwrite', 'header', 'header_remove', 'http_response_code', 'implode', 'in_array',
        'is_array', 'is_bool', 'is_file', 'is_string', 'json_decode', 'json_encode', 'ceil', 'max', 'md5', 'microtime', 'min', 'preg_match', 'preg_replace',
        'rawurlencode', 'round', 'rtrim', 'stream_get_contents', 'stream_select', 'stream_set_blocking', 'strlen', 'strpos', 'strtolower', 'substr',
        'time', 'trim', 'urldecode');

    /** The same for the probe alone. */
    private static $probeNeeds = array('bin2hex', 'clearstatcache', 'file_put_contents', 'filesize', 'mt_rand', 'uniqid', 'unlink');

    /** How long connecting may take, and an answer that need not wait, in seconds. */
    const CONNECT_TIME = 0.3;
    const ANSWER_TIME = 5.0;

    /** How long a visitor is held: where the web server tells that a tab was closed, and where nobody does, in seconds. */
    const HOLD = 25.0;
    const BLIND_HOLD = 10.0;

    /** How often something is written to a visitor who waits, so that a closed tab is noticed, in seconds. */
    const HEARTBEAT = 2.0;

    /** The longest query, and the most a publisher may send: the server has its own limit, this protects PHP's memory. */
    const MAX_QUERY = 32768;
    const MAX_BODY = 2200000;

    /** When to come back to a server that does not answer, in milliseconds. */
    const DOWN_RETRY = 2000;

    /** How long a probe waits for the page, how long a good result holds and how long a bad one, in seconds. */
    const PROBE_TIME = 2.0;
    const PROBE_HOLDS = 604800;
    const PROBE_FAILED = 60;

    private $config;
    private $stream;
    private $buffer = '';
    private $begun = false;

    private function __construct(array $config)
    {
        $this->config = $config;
    }

    /** Answers the request that PHP was started for: whatever is wrong here, with a problem and never with nothing. */
    public static function main()
    {
        $bridge = new self(array());
        try {
            self::prepare();
            $bridge->config = self::locate();
            $bridge->answer();
        } catch (CometBridgeFault $fault) {
            $bridge->refuse($fault);
        } catch (Exception $fault) {
            $bridge->refuse(self::broken($fault));
        } catch (Error $fault) {
            $bridge->refuse(self::broken($fault));
        }
    }

    private static function prepare()
    {
        foreach (self::$needs as $name) {
            self::need($name);
        }
        // A warning in the middle of JSON breaks it.
        if (function_exists('ini_set')) {
            @ini_set('display_errors', '0');
            @ini_set('zlib.output_compression', '0');
        }
        if (function_exists('register_shutdown_function') && function_exists('error_get_last')) {
            register_shutdown_function(array(__CLASS__, 'lastWord'));
        }
        if (function_exists('session_id') && function_exists('session_write_close') && session_id() !== '') {
            session_write_close();
        }
        $nested = function_exists('ob_get_level') && function_exists('ob_end_clean');
        while ($nested && ob_get_level() > 0 && @ob_end_clean()) {
            continue;
        }
    }

    private static function need($name)
    {
        if (!function_exists($name)) {
            throw self::lacking($name);
        }
    }

    private static function lacking($name)
    {
        return new CometBridgeFault(503, 'unavailable', 'PHP has no function ' . $name . '() here: take it out of disable_functions in php.ini, or ask your host to');
    }

    /** A mistake of this file's, or of the configuration's. Before anything else is asked for, only this one function was. */
    private static function broken($fault)
    {
        if ($fault->getMessage() === 'Call to undefined function function_exists()') {
            return self::lacking('function_exists');
        }
        if (function_exists('error_log')) {
            error_log('CometServer bridge: ' . $fault->getMessage() . ' in ' . $fault->getFile() . ':' . $fault->getLine());
        }
        return new CometBridgeFault(500, 'unavailable', 'the bridge or comet-config.php beside it is broken: PHP\'s error log says where');
    }

    /** For what PHP lets nobody catch: a limit of time or memory, before anything was answered. */
    public static function lastWord()
    {
        $last = error_get_last();
        $fatal = array(E_ERROR, E_PARSE, E_CORE_ERROR, E_COMPILE_ERROR);
        if ($last !== null && in_array($last['type'], $fatal, true) && !(function_exists('headers_sent') && headers_sent())) {
            $bridge = new self(array());
            $bridge->refuse(new CometBridgeFault(500, 'unavailable', 'PHP has ended the bridge: its error log says why'));
        }
    }

    private function answer()
    {
        $query = isset($_SERVER['QUERY_STRING']) ? (string) $_SERVER['QUERY_STRING'] : '';
        if (strlen($query) > self::MAX_QUERY) {
            throw new CometBridgeFault(414, 'bad_request', 'the query is too long');
        }
        $pairs = self::pairs($query);
        $method = isset($_SERVER['REQUEST_METHOD']) ? $_SERVER['REQUEST_METHOD'] : 'GET';
        foreach ($pairs as $pair) {
            if ($pair[0] === 'probe') {
                $this->probe($method, $pair[1]);
                return;
            }
            if ($pair[0] === 'release') {
                $this->release($pair[1], $pairs);
                return;
            }
        }
        $call = self::call($pairs);
        if (!isset(self::$calls[$call])) {
            throw new CometBridgeFault(404, 'not_found', 'the bridge passes on poll, sse, renew, now, history, presence and publish: name one as `call`');
        }
        if ($method !== self::$calls[$call][0]) {
            header('Allow: ' . self::$calls[$call][0]);
            throw new CometBridgeFault(405, 'method_not_allowed', $call . ' is asked with ' . self::$calls[$call][0]);
        }
        // Closing connections in time is ours to do, also when the visitor has gone.
        if (function_exists('set_time_limit')) {
            @set_time_limit((int) self::HOLD + 10);
        }
        if ($call === 'sse') {
            $this->passStream($pairs);
        } elseif ($call === 'poll') {
            $this->passPoll($pairs);
        } else {
            $body = $method === 'POST' ? self::body() : '';
            $this->ask($method, $call, self::chosen($call, $pairs), $body);
            $this->pass($this->head(microtime(true) + self::ANSWER_TIME), microtime(true) + self::ANSWER_TIME);
        }
    }

    /** A long poll. Where small pieces arrive, blanks go before the JSON, which is how a closed tab is noticed. */
    private function passPoll(array $pairs)
    {
        // An answer that may be 304 cannot begin before it is known.
        $beats = !isset($_SERVER['HTTP_IF_NONE_MATCH']) && $this->streams();
        $hold = $beats ? self::HOLD : self::BLIND_HOLD;
        $chosen = array();
        $cursor = 'now';
        foreach (self::chosen('poll', $pairs) as $pair) {
            if ($pair[0] === 'wait_ms') {
                $hold = min($hold, max(0, (float) $pair[1]) / 1000);
            } else {
                $chosen[] = $pair;
            }
            if ($pair[0] === 'cursor' && $pair[1] !== '') {
                $cursor = $pair[1];
            }
        }
        $wait = array('wait_ms', (string) (int) round($hold * 1000));
        $this->ask('GET', 'poll', array_merge($chosen, array($wait, array('route', 'bridge'))), '');
        try {
            $head = $this->head(microtime(true) + $hold + self::ANSWER_TIME, $beats);
            $body = $this->whole($head, microtime(true) + self::ANSWER_TIME);
        } catch (CometBridgeFault $fault) {
            if (!$this->begun) {
                throw $fault;
            }
            echo self::nothingYet($cursor, 0);
            return;
        }
        if (!$this->begun) {
            $this->give($head);
        } elseif ($head['status'] !== 200) {
            $body = self::nothingYet($cursor, isset($head['headers']['retry-after']) ? (int) $head['headers']['retry-after'] : 0);
        }
        echo $body;
    }

    /** For an error after the first blank, when it is too late for a status: the page comes back with what it had, and is told then. */
    private static function nothingYet($cursor, $seconds)
    {
        $place = json_encode($cursor);
        // No cursor of the server's is anything but UTF-8.
        $place = is_string($place) ? $place : '"now"';
        return '{"publications":[],"retry_ms":' . max(self::DOWN_RETRY, $seconds * 1000) . ',"cursor":' . $place . '}';
    }

    /** A stream of events, where it was seen that those arrive. */
    private function passStream(array $pairs)
    {
        if (!$this->streams()) {
            header('X-Comet-Bridge: no-stream');
            $accept = isset($_SERVER['HTTP_ACCEPT']) ? $_SERVER['HTTP_ACCEPT'] : '';
            if (strpos($accept, 'text/event-stream') === false) {
                throw new CometBridgeFault(501, 'bad_request', 'small pieces are not known to arrive through this web server: poll, or let ?probe=page find out');
            }
            $this->streamLater();
            return;
        }
        try {
            $this->ask('GET', 'sse', array_merge(self::chosen('sse', $pairs), array(array('route', 'bridge'))), '');
            $head = $this->head(microtime(true) + self::ANSWER_TIME);
        } catch (CometBridgeFault $fault) {
            if ($fault->status !== 503) {
                throw $fault;
            }
            $this->streamLater();
            return;
        }
        if ($head['status'] !== 200) {
            $this->pass($head, microtime(true) + self::ANSWER_TIME);
            return;
        }
        $this->give($head);
        $this->streamHead();
        $last = "\n";
        $until = microtime(true) + self::HOLD;
        // HTTP/1.0 was asked for: the events as they are, until the connection closes.
        while (microtime(true) < $until && !connection_aborted()) {
            $piece = $this->buffer === '' ? $this->piece(microtime(true) + self::HEARTBEAT) : $this->buffer;
            $this->buffer = '';
            if ($piece === null) {
                break;
            }
            if ($piece !== '') {
                echo $piece;
                $last = substr($piece, -1);
            } elseif ($last === "\n") {
                // A comment may stand between any two lines.
                echo ":\n";
            }
            flush();
        }
    }

    private function release($session, array $pairs)
    {
        $chosen = array(array('session', $session));
        foreach (self::chosen('release', $pairs) as $pair) {
            if ($pair[0] !== 'session') {
                $chosen[] = $pair;
            }
        }
        $this->ask('POST', 'release', $chosen, '');
        $this->head(microtime(true) + self::ANSWER_TIME);
        http_response_code(204);
    }

    /**
     * Finds out whether small pieces arrive: the first one carries a number, and the page says it back in another request.
     * Only if that comes while this one is still open did it arrive in time. So nobody can claim what is not so.
     */
    private function probe($method, $value)
    {
        foreach (self::$probeNeeds as $name) {
            self::need($name);
        }
        $folder = $this->stateFolder();
        header('Cache-Control: no-store');
        if ($method === 'POST') {
            $file = $folder . '/probe-' . $value;
            if ($folder !== null && preg_match('~^[0-9a-f]{32}$~D', $value) && @is_file($file)) {
                @file_put_contents($file, 'seen');
            }
            http_response_code(204);
            return;
        }
        if ($value === 'page') {
            header('Content-Type: text/html; charset=utf-8');
            echo self::probePage();
            return;
        }
        $this->streamHead();
        $known = $folder === null ? false : $this->verdict();
        if ($known !== null) {
            echo 'data: {"streams":', $known ? 'true' : 'false', "}\n\n";
            return;
        }
        $lock = @fopen($folder . '/probe.lock', 'c');
        $locks = function_exists('flock');
        if (!$lock || ($locks && !flock($lock, LOCK_EX | LOCK_NB))) {
            echo "data: {\"streams\":false,\"busy\":true}\n\n";
            return;
        }
        $number = function_exists('random_bytes') ? bin2hex(random_bytes(16)) : md5(uniqid((string) mt_rand(), true));
        $file = $folder . '/probe-' . $number;
        file_put_contents($file, '');
        echo 'data: {"probe":"', $number, "\"}\n\n";
        flush();
        $until = microtime(true) + self::PROBE_TIME;
        do {
            self::pause(20000);
            clearstatcache();
            $seen = @filesize($file) > 0;
        } while (!$seen && microtime(true) < $until);
        @unlink($file);
        @file_put_contents($this->verdictFile(), json_encode(array('streams' => $seen, 'time' => time())));
        fclose($lock);
        echo 'data: {"streams":', $seen ? 'true' : 'false', "}\n\n";
    }

    /** Do small pieces arrive? As configured, else as a probe has found. */
    private function streams()
    {
        if (isset($this->config['sse']) && is_bool($this->config['sse'])) {
            return $this->config['sse'];
        }
        return $this->verdict() === true;
    }

    /** What the last probe has found, or `null`. */
    private function verdict()
    {
        $file = $this->verdictFile();
        $kept = $file === null ? null : json_decode((string) @file_get_contents($file), true);
        if (!isset($kept['streams'], $kept['time'])) {
            return null;
        }
        $holds = $kept['streams'] ? self::PROBE_HOLDS : self::PROBE_FAILED;
        return $kept['time'] + $holds > time() ? (bool) $kept['streams'] : null;
    }

    private function verdictFile()
    {
        $folder = $this->stateFolder();
        // Another web server before the same files is another path.
        $software = isset($_SERVER['SERVER_SOFTWARE']) ? $_SERVER['SERVER_SOFTWARE'] : '';
        return $folder === null ? null : $folder . '/streams-' . md5(__FILE__ . PHP_SAPI . $software);
    }

    private static function probePage()
    {
        return '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>CometServer bridge</title>'
            . '<p id="told">Looking whether small pieces arrive …</p><script>'
            . 'fetch("?probe=1",{cache:"no-store"}).then(async(answer)=>{const reader=answer.body.getReader(),utf8=new TextDecoder();let text="";'
            . 'for(;;){const{done,value}=await reader.read();if(done)break;text+=utf8.decode(value,{stream:true});'
            . 'const found=/"probe":"([0-9a-f]+)"/.exec(text);if(found&&!text.includes("streams"))fetch("?probe="+found[1],{method:"POST"});}'
            . 'document.getElementById("told").textContent=text.includes("busy")?"Another page is looking: load this one again."'
            . ':text.includes("\"streams\":true")?"Small pieces arrive: event streams will be used."'
            . ':"Small pieces do not arrive here: long polls will be used, which is fine.";});</script>';
    }

    /** Sends a request to the server. */
    private function ask($method, $call, array $pairs, $body)
    {
        $query = array();
        foreach ($pairs as $pair) {
            $query[] = $pair[0] . '=' . rawurlencode($pair[1]);
        }
        // HTTP/1.0: the answer ends with the connection, and is not chunked.
        $head = $method . ' /v1/' . $call . ($query ? '?' . implode('&', $query) : '') . " HTTP/1.0\r\n" . 'Host: ' . self::host() . "\r\n";
        foreach (self::$taken as $one) {
            if (isset($_SERVER[$one[0]]) && is_string($_SERVER[$one[0]]) && $_SERVER[$one[0]] !== '') {
                $value = $_SERVER[$one[0]];
                if (!preg_match($one[2], $value)) {
                    if (!isset($one[3])) {
                        throw new CometBridgeFault(400, 'bad_request', 'the header ' . $one[1] . ' is not one to be passed on');
                    }
                    $value = $one[3];
                }
                $head .= $value === '' ? '' : $one[1] . ': ' . $value . "\r\n";
            }
        }
        $token = self::authorization();
        if ($token !== null) {
            $head .= 'Authorization: ' . $token . "\r\n";
        }
        // Whatever the visitor claims of itself is left out: this is who the web server has seen.
        if (isset($_SERVER['REMOTE_ADDR']) && filter_var($_SERVER['REMOTE_ADDR'], FILTER_VALIDATE_IP)) {
            $head .= 'X-Forwarded-For: ' . $_SERVER['REMOTE_ADDR'] . "\r\n";
        }
        // Proves that the site's own bridge asks: what visitors wait for elsewhere, and say to be it, is not for it to bear.
        $key = $this->key();
        if ($key !== null) {
            $head .= 'Comet-Gateway: ' . $key . "\r\n";
        }
        if ($method === 'POST') {
            $head .= 'Content-Length: ' . strlen($body) . "\r\n";
        }
        $this->stream = $this->connect();
        $this->buffer = '';
        stream_set_blocking($this->stream, false);
        $bytes = $head . "\r\n" . $body;
        $until = microtime(true) + self::ANSWER_TIME;
        for ($sent = 0; $sent < strlen($bytes); $sent += $written) {
            $written = @fwrite($this->stream, $sent === 0 ? $bytes : substr($bytes, $sent, 65536));
            if ($written === false || ($written === 0 && feof($this->stream))) {
                // It may have answered already, as to a body that is too large.
                return;
            }
            if ($written === 0 && !$this->await($until, false)) {
                throw self::down();
            }
        }
    }

    /** The head of the answer; meanwhile, if asked to, the visitor's answer begins with blanks. */
    private function head($until, $beats = false)
    {
        $beat = microtime(true) + self::HEARTBEAT;
        while (($end = strpos($this->buffer, "\r\n\r\n")) === false) {
            $piece = $this->piece($beats ? min($until, $beat) : $until);
            if ($piece === null || strlen($this->buffer) > 65536 || microtime(true) > $until) {
                throw self::down();
            }
            $this->buffer .= $piece;
            if ($piece === '' && $beats) {
                $this->beat();
                $beat = microtime(true) + self::HEARTBEAT;
            }
        }
        $lines = explode("\r\n", substr($this->buffer, 0, $end));
        $this->buffer = (string) substr($this->buffer, $end + 4);
        if (!preg_match('~^HTTP/1\.[01] (\d{3})~', array_shift($lines), $match)) {
            throw self::down();
        }
        $headers = array();
        foreach ($lines as $line) {
            $parts = explode(':', $line, 2);
            $headers[strtolower($parts[0])] = isset($parts[1]) ? trim($parts[1]) : '';
        }
        return array('status' => (int) $match[1], 'headers' => $headers);
    }

    /** A blank to somebody who waits; PHP ends here if nobody is there any more, and with it the hold. */
    private function beat()
    {
        if (!$this->begun) {
            $this->begun = true;
            header('Content-Type: application/json');
            header('Cache-Control: no-cache, no-store, no-transform');
            header('X-Accel-Buffering: no');
        }
        echo ' ';
        flush();
        if (connection_aborted()) {
            fclose($this->stream);
            exit;
        }
    }

    /** The rest of an answer. */
    private function whole(array $head, $until)
    {
        while (($piece = $this->piece($until)) !== null) {
            if ($piece === '') {
                throw self::down();
            }
            $this->buffer .= $piece;
        }
        $length = isset($head['headers']['content-length']) ? (int) $head['headers']['content-length'] : null;
        if ($length !== null && $head['status'] !== 304 && strlen($this->buffer) !== $length) {
            throw self::down();
        }
        return $this->buffer;
    }

    private function pass(array $head, $until)
    {
        $body = $this->whole($head, $until);
        $this->give($head);
        echo $body;
    }

    private function give(array $head)
    {
        http_response_code($head['status']);
        // What PHP adds by itself.
        header_remove('X-Powered-By');
        foreach (self::$given as $name) {
            if (isset($head['headers'][$name])) {
                header($name . ': ' . $head['headers'][$name]);
            }
        }
    }

    private function streamHead()
    {
        header('Content-Type: text/event-stream; charset=utf-8');
        header('Cache-Control: no-cache, no-store, no-transform');
        header('X-Accel-Buffering: no');
    }

    /** A stream that only says when to come back: a browser's EventSource gives up for ever after anything else. */
    private function streamLater()
    {
        $this->streamHead();
        // No empty line behind it: an empty block makes some clients forget where they stand.
        echo 'retry: ', self::DOWN_RETRY, "\n";
    }

    /** Says it with whatever functions there are: the missing one may be among those. */
    private function refuse(CometBridgeFault $fault)
    {
        $headers = array('Content-Type: application/problem+json', 'Cache-Control: no-store');
        if ($fault->status === 503) {
            $headers[] = 'Retry-After: 2';
            $headers[] = 'X-Comet-Retry-Ms: ' . self::DOWN_RETRY;
        }
        try {
            @http_response_code($fault->status);
        } catch (Error $forbidden) {
            $headers[] = 'Status: ' . $fault->status;
        }
        try {
            foreach ($headers as $header) {
                @header($header);
            }
        } catch (Error $forbidden) {
            // Then the body alone says it.
        }
        $problem = array('type' => 'about:blank#' . $fault->error, 'title' => $fault->error, 'status' => $fault->status,
            'detail' => $fault->getMessage(), 'code' => $fault->error);
        try {
            echo json_encode($problem);
        } catch (Error $forbidden) {
            // What is missing is told in words that need no escaping.
            echo '{"status":', $fault->status, ',"code":"', $fault->error, '","detail":"', $fault->getMessage(), '"}';
        }
    }

    private static function down($why = 'the push server does not answer: try again in a moment')
    {
        return new CometBridgeFault(503, 'unavailable', $why);
    }

    /** Bytes of the server's, '' if none came in time, `null` at the end. */
    private function piece($until)
    {
        do {
            $piece = @fread($this->stream, 65536);
            if ($piece !== false && $piece !== '') {
                return $piece;
            }
            if ($piece === false || feof($this->stream)) {
                return null;
            }
        } while ($this->await($until, true));
        return '';
    }

    /** Waits until the server has something for us, or takes something; false when the time is up. */
    private function await($until, $reading)
    {
        $left = $until - microtime(true);
        if ($left <= 0) {
            return false;
        }
        $read = $reading ? array($this->stream) : null;
        $write = $reading ? null : array($this->stream);
        $except = null;
        @stream_select($read, $write, $except, (int) $left, (int) (($left - (int) $left) * 1000000));
        return true;
    }

    /**
     * The server's key, which it leaves beside its public socket; read each time, since another server may have another.
     * `gateway_key` in comet-config.php, where PHP may connect there but not read there.
     */
    private function key()
    {
        $key = empty($this->config['gateway_key'])
            ? @file_get_contents($this->config['public_socket'] . '.key', false, null, 0, 200)
            : $this->config['gateway_key'];
        $key = is_string($key) ? trim($key) : '';
        return preg_match('~^[0-9a-f]{64}$~D', $key) ? $key : null;
    }

    private function connect()
    {
        $until = microtime(true) + self::CONNECT_TIME;
        $started = false;
        while (true) {
            $errno = 0;
            $error = '';
            $stream = self::open($this->config['target'], $errno, $error);
            if ($stream) {
                return $stream;
            }
            // EAGAIN: its backlog is full, and a Unix socket does not queue.
            if ($errno === 11 && microtime(true) < $until) {
                self::pause(10000);
            } elseif (!$started && !empty($this->config['start']) && in_array($errno, array(2, 111, 61), true) && self::starter()) {
                $started = true;
                $result = CometServerStart::ensure($this->config);
                if (!$result['running']) {
                    $this->log($result['message']);
                    throw self::down();
                }
            } else {
                $this->log($this->config['target'] . ': ' . $error . '. Is the server running? Name its data folder as data_dir in ' . __DIR__ . '/comet-config.php');
                throw self::down();
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
            throw self::lacking('stream_socket_client');
        }
        if (preg_match('~^(tcp://.+):(\d+)$~D', $target, $match)) {
            return @fsockopen($match[1], (int) $match[2], $errno, $error, self::CONNECT_TIME);
        }
        return @fsockopen($target, -1, $errno, $error, self::CONNECT_TIME);
    }

    private static function pause($microseconds)
    {
        if (function_exists('usleep')) {
            usleep($microseconds);
        } elseif (function_exists('time_nanosleep')) {
            time_nanosleep(0, $microseconds * 1000);
        }
    }

    /** For the site's own log, at most once a minute: a visitor is told nothing about this machine. */
    private function log($message)
    {
        $folder = $this->stateFolder();
        $said = $folder === null || !function_exists('filemtime') ? false : @filemtime($folder . '/bridge-said');
        if (($said === false || $said < time() - 60) && function_exists('error_log')) {
            if ($folder !== null && function_exists('touch')) {
                @touch($folder . '/bridge-said');
            }
            error_log('CometServer bridge: ' . $message);
        }
    }

    /** Which call it is: the parameter, else what follows this file's name, else the end of a rewritten address. */
    private static function call(array $pairs)
    {
        foreach ($pairs as $pair) {
            if ($pair[0] === 'call') {
                return preg_replace('~^/?v1/~', '', $pair[1]);
            }
        }
        $uri = isset($_SERVER['REQUEST_URI']) ? explode('?', $_SERVER['REQUEST_URI'], 2) : array('');
        foreach (array(isset($_SERVER['PATH_INFO']) ? $_SERVER['PATH_INFO'] : '', $uri[0]) as $path) {
            if (is_string($path) && preg_match('~/v1/([a-z]+)$~D', $path, $match)) {
                return $match[1];
            }
        }
        return '';
    }

    /** A query as pairs, in order and with repetitions, which PHP's own arrays would lose. */
    private static function pairs($query)
    {
        $pairs = array();
        foreach (explode('&', $query) as $part) {
            if ($part !== '') {
                $both = explode('=', $part, 2);
                $pairs[] = array(urldecode($both[0]), isset($both[1]) ? urldecode($both[1]) : '');
            }
        }
        return $pairs;
    }

    private static function chosen($call, array $pairs)
    {
        $names = explode(' ', self::$calls[$call][1]);
        $chosen = array();
        foreach ($pairs as $pair) {
            if (in_array($pair[0], $names, true)) {
                $chosen[] = $pair;
            }
        }
        return $chosen;
    }

    private static function body()
    {
        $length = isset($_SERVER['CONTENT_LENGTH']) ? (int) $_SERVER['CONTENT_LENGTH'] : 0;
        $input = $length > self::MAX_BODY ? false : fopen('php://input', 'rb');
        $body = $input ? stream_get_contents($input, self::MAX_BODY + 1) : false;
        if ($body === false || strlen($body) > self::MAX_BODY) {
            throw new CometBridgeFault(413, 'too_large', 'the body is too large for the bridge');
        }
        return $body;
    }

    /** The visitor's token. Some web servers hide the header, or rename it behind a rewrite. */
    private static function authorization()
    {
        $value = null;
        foreach (array('HTTP_AUTHORIZATION', 'REDIRECT_HTTP_AUTHORIZATION') as $name) {
            if ($value === null && isset($_SERVER[$name]) && $_SERVER[$name] !== '') {
                $value = $_SERVER[$name];
            }
        }
        if ($value === null && function_exists('apache_request_headers')) {
            foreach ((array) apache_request_headers() as $name => $text) {
                $value = strtolower($name) === 'authorization' ? $text : $value;
            }
        }
        // A site behind a password of the web server's: that is not for us.
        if ($value === null || !preg_match('~^bearer ~i', $value)) {
            return null;
        }
        if (!preg_match('~^bearer +[A-Za-z0-9\-._\~+/=]{1,8000}$~iD', $value)) {
            throw new CometBridgeFault(400, 'bad_request', 'the header Authorization is not one to be passed on');
        }
        return $value;
    }

    /** The host that the visitor asked for: the server compares it with the page's origin. */
    private static function host()
    {
        $host = isset($_SERVER['HTTP_HOST']) ? (string) $_SERVER['HTTP_HOST'] : 'localhost';
        if (!preg_match('~^[A-Za-z0-9.\-_]{1,255}(:\d{1,5})?$|^\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?$~D', $host)) {
            throw new CometBridgeFault(400, 'bad_request', 'the header Host is not one to be passed on');
        }
        return $host;
    }

    private function stateFolder()
    {
        return self::starter() ? CometServerStart::stateFolder($this->config) : null;
    }

    private static function starter()
    {
        if (!class_exists('CometServerStart', false) && @is_file(__DIR__ . '/start.php')) {
            require_once __DIR__ . '/start.php';
        }
        return class_exists('CometServerStart', false);
    }

    /** `comet-config.php` beside this file, COMETSERVER_DATA_DIR, else the default data folder; the public socket in it. */
    private static function locate()
    {
        $config = @is_file(__DIR__ . '/comet-config.php') ? include __DIR__ . '/comet-config.php' : array();
        $config = is_array($config) ? $config : array();
        $folder = self::variable('COMETSERVER_DATA_DIR');
        if ($folder !== null) {
            $config = array('data_dir' => $folder, 'socket' => self::variable('COMETSERVER_SOCKET')) + array_diff_key($config, array('public_socket' => 0, 'public_url' => 0, 'gateway_key' => 0));
        }
        if (empty($config['data_dir'])) {
            $config['data_dir'] = self::defaultDataDir();
        }
        $config['data_dir'] = rtrim($config['data_dir'], '/');
        if (empty($config['socket'])) {
            $config['socket'] = $config['data_dir'] . '/comet.sock';
        }
        if (empty($config['public_socket'])) {
            $config['public_socket'] = $config['data_dir'] . '/public/comet.sock';
        }
        $config['target'] = 'unix://' . $config['public_socket'];
        if (!empty($config['public_url']) && preg_match('~^http://([^/?#@]+)/?$~D', $config['public_url'], $match)) {
            $config['target'] = 'tcp://' . $match[1];
        }
        return $config;
    }

    /** The default data folder: that of this user, or that of the machine's server if only this one has a public socket. */
    private static function defaultDataDir()
    {
        $user = function_exists('posix_geteuid') ? posix_geteuid() : null;
        $state = self::variable('XDG_STATE_HOME');
        $home = self::variable('HOME');
        if ($home === null && $user !== null && function_exists('posix_getpwuid')) {
            $entry = posix_getpwuid($user);
            $home = $entry ? $entry['dir'] : null;
        }
        $machine = '/var/lib/cometserver';
        if ($user === 0 || ($state === null && ($home === null || $home === ''))) {
            return $machine;
        }
        $own = $state !== null ? $state . '/cometserver' : rtrim($home, '/') . '/.local/state/cometserver';
        $there = function_exists('file_exists') && !@file_exists($own . '/public/comet.sock') && @file_exists($machine . '/public/comet.sock');
        return $there ? $machine : $own;
    }

    private static function variable($name)
    {
        $value = function_exists('getenv') ? getenv($name) : false;
        if ($value === false || $value === '') {
            $value = isset($_SERVER[$name]) ? $_SERVER[$name] : null;
        }
        return is_string($value) && $value !== '' ? $value : null;
    }
}

/** Why a visitor gets no answer of the server's. */
final class CometBridgeFault extends Exception
{
    public $status;
    public $error;

    public function __construct($status, $error, $detail)
    {
        parent::__construct($detail);
        $this->status = $status;
        $this->error = $error;
    }
}

CometBridge::main();
