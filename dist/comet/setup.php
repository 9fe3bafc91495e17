<?php
/**
 * Sets up CometServer on this host: repairs what an upload lost, puts data and secrets where no web server shows them, starts
 * the server, and finds out which way to browsers this host allows. Open it in a browser; it locks itself afterwards.
 *
 * PHP 5.6 to 8.x, no extension.
 */


final class CometSetup
{
    /** Where what happened so far is kept; PHP, so that no web server shows it. Deleting it by FTP unlocks this page. */
    const STATE = 'setup-state.php';

    /** Where the program finds the data folder, in bin. PHP too. */
    const PLACE = 'comet-data.php';

    /** What such a file begins with that is not for PHP alone: PHP stops there, and shows nothing. */
    const PHP_END = "<?php __halt_compiler();\n";

    /** Folders in which such files will have secrets. */
    private static $closed = array('bin', 'php');

    /** Ours in the browser that sets up. */
    const COOKIE = 'comet_setup';

    /** The longest path that the kernel takes for a socket. */
    const SOCKET_PATH = 107;

    /** The channel of the test message; public, like all that begin with `public/`. */
    const CHANNEL = 'public/hello';

    /** What hosts call the folders that they serve. */
    private static $served = array('public_html', 'htdocs', 'httpdocs', 'www', 'html', 'web', 'public', 'webroot', 'wwwroot', 'docroot');

    /** The functions of PHP that this needs, which hosts may forbid with `disable_functions`. */
    private static $needs = array('basename', 'bin2hex', 'chmod', 'clearstatcache', 'dirname', 'fclose', 'file_exists', 'file_get_contents',
        'file_put_contents', 'fileowner', 'fopen', 'fread', 'fwrite', 'hash', 'hash_equals', 'header', 'http_response_code', 'in_array', 'is_array', 'is_dir',
        'is_executable', 'is_file', 'is_link', 'is_string', 'is_writable', 'json_decode', 'json_encode', 'ltrim', 'mkdir', 'preg_match', 'realpath', 'rename',
        'rmdir', 'str_replace', 'stream_get_contents', 'stream_set_timeout', 'stream_socket_client', 'strlen', 'strpos', 'strtok', 'strtolower', 'substr', 'trim',
        'unlink', 'var_export');

    private $folder;
    private $state;
    private $cookie;

    public static function main()
    {
        $lacks = self::lacks();
        if ($lacks !== null) {
            exit('PHP has no function ' . $lacks . '() here: take it out of disable_functions in php.ini, or ask your host to.');
        }
        if (self::may('ini_set')) {
            @ini_set('display_errors', '0');
        }
        $setup = new self(__DIR__);
        header('Cache-Control: no-store');
        header('X-Content-Type-Options: nosniff');
        header('Referrer-Policy: no-referrer');
        header('X-Robots-Tag: noindex');
        header("Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
        $method = isset($_SERVER['REQUEST_METHOD']) ? $_SERVER['REQUEST_METHOD'] : 'GET';
        if ($method === 'POST') {
            $setup->answer();
        } else {
            $setup->page();
        }
    }

    private static function lacks()
    {
        try {
            foreach (self::$needs as $name) {
                if (!function_exists($name)) {
                    return $name;
                }
            }
        } catch (Error $forbidden) {
            return 'function_exists';
        }
        return null;
    }

    private function __construct($folder)
    {
        $this->folder = $folder;
        $file = $folder . '/' . self::STATE;
        $text = @is_file($file) ? (string) @file_get_contents($file) : '';
        $at = strpos($text, '{');
        $state = $at === false ? null : json_decode(substr($text, $at), true);
        // A state that cannot be read locks the page: better that than a stranger.
        $this->state = is_array($state) ? $state : ($text === '' && !@is_file($file) ? array() : array('done' => true));
        $cookie = isset($_COOKIE[self::COOKIE]) ? $_COOKIE[self::COOKIE] : '';
        $this->cookie = is_string($cookie) && preg_match('~^[0-9a-f]{40}$~D', $cookie) ? $cookie : null;
    }

    // What a browser asks for.

    private function answer()
    {
        header('Content-Type: application/json');
        // A form of another site can send no header of ours; the cookie does not come along from there either.
        if (!isset($_SERVER['HTTP_X_COMET_SETUP'])) {
            $this->say(403, array('error' => 'This page sends what is needed itself.'));
            return;
        }
        if (!empty($this->state['done'])) {
            $this->say(403, array('error' => 'This page is locked. Delete ' . self::STATE . ' by FTP to set up again.'));
            return;
        }
        $actions = array('prepare', 'exposed', 'start', 'open', 'ways', 'publish', 'finish');
        $action = isset($_POST['do']) ? $_POST['do'] : '';
        if ($action === 'claim') {
            $this->claim();
        } elseif (!$this->isOwner()) {
            $this->say(403, array('error' => 'Another browser has begun to set up. Delete ' . self::STATE . ' by FTP to begin again.'));
        } elseif (in_array($action, $actions, true)) {
            try {
                $this->say(200, $this->$action());
            } catch (CometSetupFault $fault) {
                $this->say(200, array('error' => $fault->getMessage()));
            }
        } else {
            $this->say(400, array('error' => 'unknown'));
        }
    }

    private function say($status, array $what)
    {
        http_response_code($status);
        echo json_encode($what);
    }

    private function page()
    {
        if ($this->cookie === null && empty($this->state['done'])) {
            $this->cookie = self::random(20);
            $secure = !empty($_SERVER['HTTPS']) && $_SERVER['HTTPS'] !== 'off';
            header('Set-Cookie: ' . self::COOKIE . '=' . $this->cookie . '; HttpOnly; SameSite=Strict' . ($secure ? '; Secure' : ''));
        }
        header('Content-Type: text/html; charset=utf-8');
        $stage = !empty($this->state['done']) ? 'locked' : (empty($this->state['owner']) ? 'claim' : ($this->isOwner() ? 'work' : 'taken'));
        $claim = $stage === 'claim' ? self::claimFile($this->cookie) : '';
        include $this->folder . '/setup/page.php';
    }

    // Who may set up: whoever can put files into this folder.

    private function isOwner()
    {
        return $this->cookie !== null && !empty($this->state['owner']) && hash_equals($this->state['owner'], hash('sha256', $this->cookie));
    }

    private static function claimFile($cookie)
    {
        return 'claim-' . substr(hash('sha256', 'claim ' . $cookie), 0, 16) . '.txt';
    }

    private function claim()
    {
        if ($this->isOwner()) {
            $this->say(200, array('claimed' => true));
            return;
        }
        if (!empty($this->state['owner']) || $this->cookie === null) {
            $this->say(403, array('error' => 'Another browser has begun to set up. Delete ' . self::STATE . ' by FTP to begin again.'));
            return;
        }
        $file = $this->folder . '/' . self::claimFile($this->cookie);
        clearstatcache();
        if (!@is_file($file)) {
            $this->say(200, array('claimed' => false));
            return;
        }
        $this->state = array('owner' => hash('sha256', $this->cookie));
        // Of two browsers at once one makes the file.
        $made = @fopen($this->folder . '/' . self::STATE, 'x');
        if (!$made) {
            $this->say(200, array('error' => 'PHP may not write into the folder comet. Give it write permission (755, or 775) by FTP, and continue.'));
            return;
        }
        fclose($made);
        $this->keep();
        @unlink($file);
        $this->say(200, array('claimed' => true));
    }

    private function keep()
    {
        $file = $this->folder . '/' . self::STATE;
        self::write($file, '<?php exit; // ' . json_encode($this->state) . "\n", 0600);
    }

    // The work, step by step.

    /** Looks at this host and makes the data folder. */
    private function prepare()
    {
        $checks = array();
        $checks[] = self::check(true, 'PHP ' . PHP_VERSION . ' (' . PHP_SAPI . ')', 'on ' . self::machine('s') . ' ' . self::machine('m'));
        $repaired = 0;
        foreach (array('bin/comet', 'cgi/push.cgi') as $name) {
            $file = $this->folder . '/' . $name;
            if (!@is_file($file)) {
                throw new CometSetupFault('The file comet/' . $name . ' is missing. Upload the whole folder again, in binary mode.');
            }
            if (!is_executable($file)) {
                @chmod($file, 0755);
                clearstatcache();
                $repaired++;
            }
        }
        if (!is_executable($this->folder . '/bin/comet')) {
            throw new CometSetupFault('The program may not be run. Set its permissions by FTP: 755 for comet/bin/comet and comet/cgi/push.cgi.');
        }
        $said = $this->version();
        $checks[] = self::check(true, $said === null ? 'The program is there' : "The program runs: $said", $repaired
            ? 'The upload had dropped its executable bit; it is back.' : 'Its executable bit is set.');
        $data = empty($this->state['data']) ? $this->makeData() : $this->state['data'];
        $this->state['data'] = $data;
        $url = $this->urlOf($data);
        // Before there is any secret: these are for the page to ask for.
        $canaries = array();
        $word = self::random(16);
        foreach (self::$closed as $name) {
            self::write($this->folder . "/$name/canary.php", self::PHP_END . "$word\n", 0600);
            $canaries[] = array('url' => "$name/canary.php", 'word' => $word, 'isPhp' => true);
        }
        // The rules for a proxy will name the data folder: not where nobody reads them but visitors.
        if (@is_dir($this->folder . '/live') || @mkdir($this->folder . '/live', 0755)) {
            $rules = (string) @file_get_contents($this->folder . '/bin/.htaccess');
            self::write($this->folder . '/live/.htaccess', "# $word\n$rules", 0644);
            $canaries[] = array('url' => 'live/.htaccess', 'word' => $word, 'isRules' => true);
        }
        if ($url !== null) {
            self::write($data . '/canary.txt', $word, 0644);
            $canaries[] = array('url' => $url . '/canary.txt', 'word' => $word, 'isPhp' => false);
        }
        $this->keep();
        $checks[] = self::check(true, 'Data and secrets have a folder', $data . ($url === null
            ? ', outside of what this site serves' : ', within what the web server serves: whether it is closed is tried next'));
        return array('checks' => $checks, 'canaries' => $canaries);
    }

    /** What the program says of itself, if PHP may ask it. */
    private function version()
    {
        if (!self::may('exec')) {
            return null;
        }
        $lines = array();
        $code = 1;
        $program = "'" . str_replace("'", "'\\''", $this->folder . '/bin/comet') . "'";
        exec("env -i PATH=/usr/bin:/bin $program version </dev/null 2>&1", $lines, $code);
        if ($code !== 0) {
            throw new CometSetupFault('The program does not run on this host: ' . (isset($lines[0]) ? $lines[0] : "it ended with $code")
                . '. Is it a Linux with ' . self::machine('m') . '? Was it uploaded in binary mode?');
        }
        return isset($lines[0]) ? $lines[0] : null;
    }

    /**
     * A folder outside of everything served, if PHP may write there, else one beside this file. All are closed by a .htaccess
     * and have names that nobody guesses: what another site of the same account serves cannot be seen from here.
     */
    private function makeData()
    {
        $rules = (string) @file_get_contents($this->folder . '/bin/.htaccess');
        if ($rules === '') {
            throw new CometSetupFault('The file comet/bin/.htaccess is missing. Upload the whole folder again, hidden files too.');
        }
        $data = $this->formerData();
        $name = '/comet-data-' . self::random(8);
        foreach ($data === null ? $this->places() : array() as $place) {
            $folder = $place . $name;
            if (strlen($folder . '/public/comet.sock') <= self::SOCKET_PATH && @is_writable($place) && self::makeFolder($folder)) {
                $data = $folder;
                break;
            }
        }
        if ($data === null) {
            $data = $this->folder . '/data-' . self::random(8);
            if (strlen($data . '/public/comet.sock') > self::SOCKET_PATH) {
                throw new CometSetupFault('The path of this folder is too long for a socket (' . strlen($data) . ' bytes). Upload it nearer to the top.');
            }
            if (!self::makeFolder($data)) {
                throw new CometSetupFault('PHP may not make a folder here. Give comet write permission (755, or 775) by FTP, and try again.');
            }
        }
        self::write($data . '/.htaccess', $rules, 0644);
        self::write($data . '/index.html', '', 0644);
        return $data;
    }

    /** Where a data folder may be made that nobody serves, as far as one can see; the best first. */
    private function places()
    {
        $root = isset($_SERVER['DOCUMENT_ROOT']) ? realpath($_SERVER['DOCUMENT_ROOT']) : false;
        $found = array();
        $home = self::may('getenv') ? getenv('HOME') : false;
        if ($home === false && function_exists('posix_getpwuid') && function_exists('posix_geteuid')) {
            $user = posix_getpwuid(posix_geteuid());
            $home = $user ? $user['dir'] : false;
        }
        $found[] = is_string($home) && $home !== '' ? @realpath($home) : false;
        if ($root !== false && strpos(realpath($this->folder) . '/', $root . '/') === 0) {
            $found[] = dirname($root);
        }
        $places = array();
        foreach ($found as $place) {
            // A home may be the document root.
            $within = $root !== false && strpos($place . '/', $root . '/') === 0;
            if (is_string($place) && $place !== '/' && !$within && !self::looksServed($place)) {
                $places[] = $place;
            }
        }
        return $places;
    }

    /** Does a folder, or one that it is in, look like a document root? An addon domain's root often is within the main one's. */
    private static function looksServed($place)
    {
        for ($folder = $place; strlen($folder) > 1; $folder = dirname($folder)) {
            // Below these, hosts keep each customer's folder: only in themselves nothing is to be put.
            $shelf = $folder !== $place && in_array($folder, array('/var/www', '/srv/www'), true);
            if (!$shelf && in_array(strtolower(basename($folder)), self::$served, true)) {
                return true;
            }
            foreach (array('.htaccess', 'index.html', 'index.htm', 'index.php') as $file) {
                if (@file_exists($folder . '/' . $file)) {
                    return true;
                }
            }
        }
        return false;
    }

    /** The data folder of an earlier time, whose state was deleted to unlock this page; not that of a site this is a copy of. */
    private function formerData()
    {
        $file = $this->folder . '/php/comet-config.php';
        $config = @is_file($file) ? include $file : null;
        if (!isset($config['data_dir'], $config['binary']) || $config['binary'] !== $this->folder . '/bin/comet') {
            return null;
        }
        $data = $config['data_dir'];
        $good = @is_file($data . '/comet.toml') && in_array(dirname($data), $this->places(), true) && self::makeFolder($data);
        return $good ? $data : null;
    }

    private static function makeFolder($folder)
    {
        if (@is_link($folder) || (@is_dir($folder) && function_exists('posix_geteuid') && @fileowner($folder) !== posix_geteuid())) {
            return false;
        }
        return (@is_dir($folder) || @mkdir($folder, 0700)) && @chmod($folder, 0700) && @is_writable($folder);
    }

    /** The address under which the web server would show a folder; `null` if it is outside of what it serves. */
    private function urlOf($folder)
    {
        $own = realpath($this->folder);
        $real = realpath($folder);
        if ($real !== false && strpos($real . '/', $own . '/') === 0) {
            return ltrim(substr($real, strlen($own)), '/');
        }
        return null;
    }

    /** The page could read what nobody may: nothing stays. */
    private function exposed()
    {
        $data = $this->data();
        foreach (array('canary.txt', '.htaccess', 'index.html') as $name) {
            @unlink($data . '/' . $name);
        }
        $this->unlinkCanaries();
        $this->unlinkLive();
        @rmdir($data);
        unset($this->state['data']);
        $this->keep();
        return array('removed' => !@is_dir($data));
    }

    private function unlinkLive()
    {
        @unlink($this->folder . '/live/.htaccess');
        @rmdir($this->folder . '/live');
    }

    private function unlinkCanaries()
    {
        foreach (self::$closed as $name) {
            @unlink($this->folder . "/$name/canary.php");
        }
    }

    /** Writes secrets and configuration once, and starts the server. */
    private function start()
    {
        $data = $this->data();
        @unlink($data . '/canary.txt');
        $this->unlinkCanaries();
        if (!@is_file($data . '/comet.toml')) {
            self::write($data . '/tokens.key', self::random(32) . "\n", 0600);
            self::write($data . '/site.key', self::random(32) . "\n", 0600);
            self::write($data . '/comet.toml', self::toml(), 0600);
        }
        $config = $this->config();
        $secret = trim((string) file_get_contents($data . '/tokens.key'));
        $entries = $config + array('token_secret' => $secret, 'token_kid' => 'site');
        $php = "<?php\n// Where the server is, for the PHP of this site. Written by setup.php.\nreturn " . var_export($entries, true) . ";\n";
        self::write($this->folder . '/php/comet-config.php', $php, 0600);
        // The program's own, for its CGI.
        self::write($this->folder . '/bin/' . self::PLACE, self::PHP_END . $data . "\nstart\nconfig=" . $config['config'] . "\n", 0600);
        // What older versions wrote, which a web server shows that reads no .htaccess.
        @unlink($this->folder . '/bin/comet-data');
        require_once $this->folder . '/php/start.php';
        $result = CometServerStart::ensure($config);
        if (!$result['running']) {
            return array(
                'running' => false,
                'message' => $result['message'],
                'cron' => CometServerStart::cronLine($config),
                'mayStart' => CometServerStart::way() !== null,
            );
        }
        return array('running' => true, 'message' => $result['started'] ? 'It was started just now.' : 'It was running already.', 'data' => $data);
    }

    private function config()
    {
        $data = $this->data();
        return array(
            'data_dir' => $data,
            'socket' => $data . '/comet.sock',
            'public_socket' => $data . '/public/comet.sock',
            'binary' => $this->folder . '/bin/comet',
            'config' => $data . '/comet.toml',
            'start' => true,
        );
    }

    private static function toml()
    {
        return <<<'TOML'
# CometServer for this site, written by setup.php. `comet config default` prints all settings there are.

# A shared host gives a process little: one thread serves thousands of visitors.
threads = 1

# Started again when somebody comes.
exit_when_idle = "1h"

[limits]
log_memory = "32MiB"
window_bytes = "8MiB"
connections = 2000

# Each request that is held takes a worker of the web server, which other sites of this host need as well.
[held]
ws.max = 24
ws.lifetime = "5m"
sse.max = 24
sse.lifetime = "60s"
stream.max = 4
stream.lifetime = "60s"
poll.max = 16
poll.hold = "10s"
heartbeat = "5s"

# For who publishes from elsewhere: with this key, through a public address.
[[keys]]
name = "site"
secret_file = "site.key"
actions = ["publish", "history", "presence"]

# Signs what lets a visitor listen to channels that are not public.
[[tokens]]
name = "site"
secret_file = "tokens.key"

# Channels whose name begins with public/ may be listened to by anybody. Of all others a token decides.
[[namespaces]]
match = "public/**"
public = true
history = { count = 100, age = "24h" }

TOML;
    }

    /** Lets the web server's user pass through the data folder to the public socket, and look at nothing. */
    private function open()
    {
        $data = $this->data();
        $opened = @chmod($data, 0711) && @chmod($data . '/public', 0711);
        return array('opened' => $opened);
    }

    /** Prepares the ways to be tried by the page, each with its address. */
    private function ways()
    {
        $socket = $this->data() . '/public/comet.sock';
        $ways = array();
        // In a rule of Apache's a blank would end the path.
        if (!empty($_POST['shown'])) {
            $this->unlinkLive();
        } elseif (preg_match('~^[A-Za-z0-9/._-]+$~D', $socket)) {
            if (@is_dir($this->folder . '/live')) {
                self::write($this->folder . '/live/.htaccess', self::proxyRules($socket), 0644);
                $ways[] = array('name' => 'proxy', 'base' => 'live');
            }
        }
        $ways[] = array('name' => 'cgi', 'base' => 'cgi/push.cgi');
        $ways[] = array('name' => 'php', 'base' => 'php/bridge.php', 'other' => 'php/bridge.php?call=');
        return array('ways' => $ways, 'channel' => self::CHANNEL);
    }

    private static function proxyRules($socket)
    {
        return <<<APACHE
# Browsers reach the CometServer of this site through here. Written by setup.php: it is the folder's only file, so that a
# host which does not allow one of these lines answers 500 here and nowhere else.
<IfModule mod_rewrite.c>
    RewriteEngine On
    <IfModule mod_proxy_http.c>
        <IfModule mod_proxy_wstunnel.c>
            RewriteCond %{HTTP:Upgrade} =websocket [NC]
            RewriteRule ^(v1/ws)\$ unix:$socket|ws://%{HTTP_HOST}/\$1 [P,L]
        </IfModule>
        RewriteRule ^((?:v1|health)/[a-z/]+)\$ unix:$socket|http://%{HTTP_HOST}/\$1 [P,L]
    </IfModule>
</IfModule>

APACHE;
    }

    /** Publishes the test message, as the site's own code would. */
    private function publish()
    {
        $text = isset($_POST['text']) && is_string($_POST['text']) ? substr($_POST['text'], 0, 200) : 'Hello';
        $errno = 0;
        $error = '';
        $socket = @stream_socket_client('unix://' . $this->data() . '/comet.sock', $errno, $error, 2);
        if (!$socket) {
            throw new CometSetupFault("The server does not answer: $error");
        }
        stream_set_timeout($socket, 5);
        $body = json_encode(array('channel' => self::CHANNEL, 'data' => array('text' => $text)));
        fwrite($socket, "POST /v1/publish HTTP/1.0\r\nHost: comet\r\nContent-Type: application/json\r\nContent-Length: " . strlen($body) . "\r\n\r\n" . $body);
        $answer = (string) stream_get_contents($socket);
        fclose($socket);
        if (strpos($answer, ' 200 ') === false) {
            throw new CometSetupFault('The server did not take the message: ' . strtok($answer, "\r\n"));
        }
        return array('published' => true);
    }

    /** Keeps the way that the page has found, and locks the page. */
    private function finish()
    {
        $way = isset($_POST['way']) ? $_POST['way'] : '';
        if (!in_array($way, array('proxy', 'cgi', 'php'), true)) {
            throw new CometSetupFault('Choose a way first.');
        }
        if ($way !== 'proxy') {
            $this->unlinkLive();
        }
        $this->state = array('done' => true, 'way' => $way, 'data' => $this->data());
        $this->keep();
        return array('done' => true, 'autoload' => $this->folder . '/php/autoload.php');
    }

    // Small things.

    private function data()
    {
        if (empty($this->state['data']) || !@is_dir($this->state['data'])) {
            throw new CometSetupFault('The data folder is gone. Load this page again.');
        }
        return $this->state['data'];
    }

    private static function check($good, $name, $text)
    {
        return array('good' => $good, 'name' => $name, 'text' => $text);
    }

    /** Replaces a file as a whole, with its mode from the beginning. */
    private static function write($file, $text, $mode)
    {
        $temporary = $file . '.' . self::random(6);
        $mask = self::may('umask') ? umask(0777 & ~$mode) : null;
        $written = @file_put_contents($temporary, $text);
        if ($mask !== null) {
            umask($mask);
        }
        if ($written !== strlen($text) || !@chmod($temporary, $mode) || !@rename($temporary, $file)) {
            @unlink($temporary);
            throw new CometSetupFault('PHP may not write ' . $file . '. Give its folder write permission by FTP, and try again.');
        }
    }

    /** May PHP call this function here? False for what disable_functions names, too. */
    private static function may($function)
    {
        return function_exists($function);
    }

    /** A part of the machine's name, as php_uname() tells it. */
    private static function machine($part)
    {
        return self::may('php_uname') ? php_uname($part) : ($part === 's' ? PHP_OS : 'this processor');
    }

    private static function random($bytes)
    {
        if (function_exists('random_bytes')) {
            return bin2hex(random_bytes($bytes));
        }
        $strong = false;
        $random = function_exists('openssl_random_pseudo_bytes') ? openssl_random_pseudo_bytes($bytes, $strong) : false;
        if ($random === false || !$strong) {
            $source = @fopen('/dev/urandom', 'rb');
            $random = $source ? fread($source, $bytes) : '';
        }
        if (strlen($random) !== $bytes) {
            http_response_code(500);
            exit('No random numbers here: PHP 7 or later is needed.');
        }
        return bin2hex($random);
    }
}

/** What stands in the way, for the person at the page. */
final class CometSetupFault extends Exception
{
}

CometSetup::main();
