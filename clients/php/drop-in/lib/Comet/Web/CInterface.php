<?php

namespace Comet\Web;

use Comet\Internal\Hub;
use Comet\Internal\Value;
use Comet\Util\Tools;

/**
 * A key as a web page uses it: write it, read it, wait for it to change.
 *
 * Waiting blocks on the server's socket. How many may wait at a time is the server's to say, since PHP's workers run out long
 * before it does: who gets no place is answered at once, with the time to come back in a header. A page with our helper
 * brings a cursor and loses nothing; one with the older script gets at least the last message.
 */
class CInterface
{
    /** How long `read()` waits if nothing else is said, in seconds. */
    const LIMIT = 25;

    /** When to come back to a server that does not answer, in milliseconds. */
    const DOWN_RETRY = 2000;

    /** For so many seconds after a message a page without a cursor may not have seen it. */
    const LOOK_BACK = 3.0;

    /** How long a page without a cursor is kept that would ask again at once, in seconds; of those without a place, one at a time. */
    const SHORT_HOLD = 0.5;

    private $runTimeLimit;
    private $cometSrv;
    private $key;

    /** What the last `read()` found: messages, where to go on, whether it ended without a place. */
    private $messages = array();
    private $cursor;
    private $waited = false;

    /**
     * @param array $options `runTimeLimit`: for how many seconds `read()` waits at most; 0: the default.
     *                       `cometSrv`: no longer used
     */
    public function __construct(array $options = array(), $key = null)
    {
        $root = defined('ROOT_COMET') ? ROOT_COMET : Hub::root();
        $options = Tools::arrayDeepMerge(array('runTimeLimit' => 0, 'cometSrv' => $root . '/Comet'), $options);
        $this->cometSrv = $options['cometSrv'];
        $this->runTimeLimit = max(0, (int) $options['runTimeLimit']);
        $this->key = $key;
        // Where it is forbidden, calling it ends the script.
        if (function_exists('ini_set')) {
            @ini_set('max_execution_time', (string) $this->runTimeLimit);
        }
    }

    public static function create()
    {
        return new static();
    }

    public function getKey()
    {
        return $this->key;
    }

    /** @param mixed $key a number, a string, or a list */
    public function setKey($key)
    {
        $this->key = $key;
    }

    /** The name by which the command line knows a key. */
    public function cleanKey($key)
    {
        if (is_numeric($key)) {
            return $key;
        }
        if (is_string($key)) {
            return urlencode($key);
        }
        if (!is_array($key)) {
            throw new \Exception('A key is a number, a string or a list, not ' . gettype($key));
        }
        if (Tools::isAssoc($key)) {
            throw new \Exception('A key cannot be an associative or an empty array');
        }
        return urlencode(serialize(array_map('urlencode', $key)));
    }

    /** Sets the value; gives '' or, if that failed, why. */
    public function write($value)
    {
        $name = (string) $this->cleanKey($this->key);
        try {
            Hub::shared()->write($name, (string) $value, 'web');
            return '';
        } catch (\RuntimeException $fault) {
            return $fault->getMessage();
        }
    }

    /** Shows the value once more on every page; gives '' or why not. */
    public function refresh()
    {
        $name = (string) $this->cleanKey($this->key);
        try {
            Hub::shared()->repeat($name);
            return '';
        } catch (\RuntimeException $fault) {
            return $fault->getMessage();
        }
    }

    /** The value of a key as it is now: `value: TEXT`, or `value:` if there is none. */
    public function readOnce($key)
    {
        $name = (string) $this->cleanKey($key);
        try {
            $value = Hub::shared()->retained($name);
            // When the key of that name was written, as older versions kept it beside the value.
            $timed = substr($name, -5) === '-time' ? Hub::shared()->retained(substr($name, 0, -5)) : null;
        } catch (\RuntimeException $fault) {
            return $fault->getMessage();
        }
        $text = $value === null ? null : Value::text($value);
        if ($timed !== null && ($text === null || (preg_match('~^\d+$~D', $text) && (float) $text < (float) Value::seconds($timed)))) {
            $text = Value::seconds($timed);
        }
        return self::shown((string) $text);
    }

    /** Waits until the value is written or refreshed, and gives `value: TEXT`; '' when the time is up, or there is no place. */
    public function read()
    {
        $this->messages = array();
        $this->cursor = null;
        $this->waited = false;
        $name = (string) $this->cleanKey($this->key);
        self::closeSession();
        if (self::isPage() && self::parameter('comet_release', '~^[A-Za-z0-9_-]{1,64}$~D') !== null) {
            self::release($name);
            return '';
        }
        $limit = $this->runTimeLimit > 0 ? $this->runTimeLimit : self::LIMIT;
        // It counts processor time on most systems, but not on all.
        if (function_exists('set_time_limit')) {
            @set_time_limit($limit + 10);
        }
        if (!self::isPage()) {
            $this->waitInScript($name, $limit);
        } elseif (isset($_GET['comet_cursor'])) {
            $this->waitForHelper($name, $limit);
        } else {
            $this->waitForOldScript($name, $limit);
        }
        return count($this->messages) === 0 ? '' : self::shown(Value::text($this->messages[0]));
    }

    /** Does `read()`, and gives an XML document for the script in the page. */
    public function readAsXml()
    {
        if (!headers_sent()) {
            header('Content-Type: text/xml');
        }
        $data = $this->read();
        $time = '';
        if (count($this->messages) > 0) {
            $time = Value::time($this->messages[0]);
        } elseif ($this->waited) {
            $time = $this->timeNow();
        }
        $xml = '<?xml version="1.0" encoding="utf-8"?>' . "\n<comet>\n  "
            . Value::element('data', $data) . "\n  " . Value::element('time', $time) . "\n";
        if (count($this->messages) > 1) {
            foreach ($this->messages as $message) {
                $xml .= "  <message>\n    " . Value::element('data', self::shown(Value::text($message))) . "\n    "
                    . Value::element('time', Value::time($message)) . "\n  </message>\n";
            }
        }
        if ($this->cursor !== null && self::isPage() && isset($_GET['comet_cursor'])) {
            $xml .= '  ' . Value::element('cursor', $this->cursor) . "\n";
        }
        return $xml . "</comet>\n";
    }

    /** A script on the command line has a process of its own: it takes no place, and waits for a server that is away. */
    private function waitInScript($name, $limit)
    {
        $until = microtime(true) + $limit;
        $this->cursor = null;
        while (count($this->messages) === 0 && ($left = $until - microtime(true)) > 0) {
            try {
                $this->take(Hub::shared()->poll($name, $this->cursor, $left));
            } catch (\RuntimeException $fault) {
                Hub::pause(min($left, self::SHORT_HOLD));
            }
        }
        $this->messages = array_slice($this->messages, -1);
        $this->waited = true;
    }

    /** A page that says what it has seen gets all that came since, in order. */
    private function waitForHelper($name, $limit)
    {
        $this->cursor = self::parameter('comet_cursor', '~^[A-Za-z0-9_-]{1,500}$~D');
        $session = self::parameter('comet_session', '~^[A-Za-z0-9_-]{1,64}$~D');
        try {
            $this->hold($name, $limit, $session);
        } catch (\RuntimeException $fault) {
            // A cursor that this server could not have given: begin now, rather than never again.
            if ($fault->getCode() === 400) {
                $this->cursor = '';
            }
            self::comeBackIn(self::DOWN_RETRY);
        }
    }

    /**
     * A page that does not say what it has seen: it gets the last message of the last seconds, if it may not have seen it. It
     * drops by itself what has the time of the one that it showed last. A cookie of this very address tells a page that
     * was here before from a new one, which must not be shown what was there already.
     */
    private function waitForOldScript($name, $limit)
    {
        $cookie = 'comet_' . substr(md5($name), 0, 8);
        $seen = isset($_COOKIE[$cookie]) && is_string($_COOKIE[$cookie]) ? explode('-', $_COOKIE[$cookie]) : array();
        $since = isset($seen[0]) && is_numeric($seen[0]) ? (float) $seen[0] : null;
        try {
            $last = null;
            if ($since !== null) {
                $present = Hub::shared()->poll($name, null, 0, null, null, true);
                $this->take($present);
                $last = count($this->messages) > 0 ? end($this->messages) : null;
                $this->messages = array();
            }
            $written = $last === null ? 0.0 : (float) Value::time($last);
            $recent = $last !== null && $written >= $since && $written > microtime(true) - self::LOOK_BACK;
            if ($recent && isset($seen[1]) && $seen[1] === Value::time($last)) {
                // This browser was given it; another page of it perhaps not. It must not ask twenty times a second.
                $this->hold($name, self::SHORT_HOLD, null);
            } elseif (!$recent) {
                $this->hold($name, $limit, null);
            }
            if (count($this->messages) === 0 && $recent) {
                $this->messages = array($last);
            }
        } catch (\RuntimeException $fault) {
            self::comeBackIn(self::DOWN_RETRY);
        }
        $this->messages = array_slice($this->messages, -1);
        if (count($this->messages) === 0 && !$this->waited) {
            self::slowDown();
        }
        $given = count($this->messages) > 0 ? Value::time($this->messages[0]) : (isset($seen[1]) ? $seen[1] : '');
        self::remember($cookie, ($since === null ? sprintf('%.3F', $_SERVER['REQUEST_TIME']) : $seen[0]) . '-' . $given);
    }

    /** Waits as a web page may: with a place of the server's budget, or not at all. */
    private function hold($name, $limit, $session)
    {
        $until = microtime(true) + $limit;
        do {
            $left = max(0, $until - microtime(true));
            $answer = Hub::shared()->poll($name, $this->cursor, $left, 'drop-in', $session);
            $this->take($answer);
            if (isset($answer['retry_ms'])) {
                // No place: what is there already was given, the rest waits for the next time.
                self::comeBackIn((int) $answer['retry_ms']);
                return;
            }
            // With a session an early end means that the page has gone, or asked anew.
        } while (count($this->messages) === 0 && $session === null && microtime(true) < $until);
        $this->waited = true;
    }

    private function take(array $answer)
    {
        $this->cursor = (string) $answer['cursor'];
        foreach ($answer['publications'] as $publication) {
            if (isset($publication['type']) && $publication['type'] === 'publication') {
                $this->messages[] = $publication;
            }
        }
    }

    private function timeNow()
    {
        try {
            $value = Hub::shared()->retained((string) $this->cleanKey($this->key));
            return $value === null ? '' : Value::time($value);
        } catch (\RuntimeException $fault) {
            return '';
        }
    }

    private static function shown($text)
    {
        return $text === '' ? 'value:' : 'value: ' . $text;
    }

    private static function isPage()
    {
        return PHP_SAPI !== 'cli' && isset($_SERVER['REQUEST_METHOD']);
    }

    /** A parameter of the page's request, if it is a good one; '' otherwise, `null` without it. */
    private static function parameter($name, $form)
    {
        if (!isset($_GET[$name])) {
            return null;
        }
        return is_string($_GET[$name]) && preg_match($form, $_GET[$name]) ? $_GET[$name] : '';
    }

    /** The page that waited under this name has gone. */
    private static function release($name)
    {
        $session = self::parameter('comet_release', '~^[A-Za-z0-9_-]{1,64}$~D');
        try {
            if ($session !== '') {
                Hub::shared()->release($session, $name);
            }
        } catch (\RuntimeException $fault) {
            // Without a server nothing is held.
        }
    }

    /** An open session makes the visitor's next page wait for this one. */
    private static function closeSession()
    {
        if (function_exists('session_id') && function_exists('session_write_close') && session_id() !== '') {
            session_write_close();
        }
    }

    private static function comeBackIn($milliseconds)
    {
        if (!headers_sent()) {
            header('X-Comet-Retry-Ms: ' . $milliseconds);
            header('Retry-After: ' . (int) ceil($milliseconds / 1000));
        }
    }

    /** The older script knows no header and asks again at once. One at a time is slowed down: more would take the workers. */
    private static function slowDown()
    {
        $folder = Hub::shared()->stateFolder();
        $slot = $folder === null || !function_exists('flock') ? false : @fopen($folder . '/slow-down', 'c');
        if ($slot && flock($slot, LOCK_EX | LOCK_NB)) {
            Hub::pause(self::SHORT_HOLD);
        }
        if ($slot) {
            fclose($slot);
        }
    }

    private static function remember($cookie, $value)
    {
        $path = isset($_SERVER['REQUEST_URI']) ? strtok($_SERVER['REQUEST_URI'], '?') : '';
        if (!headers_sent() && preg_match('~^/[A-Za-z0-9._%/-]*$~D', (string) $path)) {
            // Of this address alone: nothing else that the site serves becomes a page for one visitor.
            setcookie($cookie, $value, 0, $path, '', false, true);
        }
    }
}
