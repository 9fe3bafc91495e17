<?php

namespace Comet\Cli;

use Comet\Internal\Hub;
use Comet\Internal\Server;

/**
 * The seven commands of the older CometServer: what each prints, and how it ends.
 *
 * They exit with 0 when it is done or the server runs, 1 if it failed, 2 if an argument is missing, and 3 for `status` when no server
 * runs. What went wrong goes to standard error; `not running`, which scripts look for, to standard output.
 */
class Commands
{
    const FAILED = 1;
    const USAGE = 2;
    const STOPPED = 3;

    /** How long a server may take to end, in seconds: it drains its connections, and keeps what is in memory. */
    const STOP_LIMIT = 60;

    /** How long a server that was started may take to leave its process id, in seconds. */
    const PID_LIMIT = 2.0;

    /** How often we look whether it has, in seconds. */
    const LOOK_EVERY = 0.05;

    private $server;

    private function __construct()
    {
        $this->server = new Server();
    }

    /**
     * Does what a command line asks for.
     *
     * @param array $arguments as `$argv`
     *
     * @return int the exit code
     */
    public static function run(array $arguments)
    {
        $handler = new ArgumentHandler(array('args' => $arguments));
        $asked = $handler->getCommand();
        $needed = array('write' => array('key', 'value'), 'read' => array('key'));
        foreach (isset($needed[$asked['command']]) ? $needed[$asked['command']] : array() as $name) {
            if ($asked[$name] === null || ($name === 'key' && $asked[$name] === '')) {
                return self::complain('The ' . $name . ' is missing: help lists the commands', self::USAGE);
            }
        }
        if ($asked['command'] === 'help') {
            return self::say($handler->getServerName() . $handler->getHelp() . "\n  help");
        }
        $commands = new self();
        try {
            // Only what the handler knows comes here.
            return $commands->{$asked['command']}($asked['key'], $asked['value']);
        } catch (\RuntimeException $fault) {
            if (!$commands->server->isRunning()) {
                echo "not running\n";
            }
            return self::complain($fault->getMessage(), self::FAILED);
        }
    }

    private function start()
    {
        if ($this->server->isRunning()) {
            return self::say('already running' . $this->pid());
        }
        $why = Hub::shared()->start(true);
        if ($why !== '') {
            return self::complain($why, self::FAILED);
        }
        // It answers a moment before it has left its number; on a full disk it leaves none.
        $until = microtime(true) + self::PID_LIMIT;
        while ($this->pid() === '' && microtime(true) < $until) {
            Hub::pause(self::LOOK_EVERY);
        }
        return self::say(Color::onTerminal('started', 'INFO') . ': running' . $this->pid());
    }

    private function stop()
    {
        if (!$this->server->isRunning()) {
            return self::say('already stopped: not running');
        }
        $pid = $this->pid();
        Hub::shared()->wire("stop \0");
        $until = microtime(true) + self::STOP_LIMIT;
        while ($this->server->isRunning()) {
            if (microtime(true) > $until) {
                return self::complain('The server' . $pid . ' was asked to stop and still runs: see its log', self::FAILED);
            }
            Hub::pause(self::LOOK_EVERY);
        }
        return self::say(Color::onTerminal('stopped', 'INFO') . $pid);
    }

    private function status()
    {
        if ($this->server->isRunning()) {
            return self::say(Color::onTerminal('running', 'INFO') . $this->pid());
        }
        self::say(Color::onTerminal('not running', 'COMMENT'));
        return self::complain('Nobody answers at ' . $this->server->getSocketAddress(), self::STOPPED);
    }

    private function write($key, $value)
    {
        $this->server->write($key, $value);
        return 0;
    }

    private function read($key)
    {
        $text = substr($this->server->read($key), 0, -2);
        return self::say($text === '' ? 'value:' : 'value: ' . $text);
    }

    private function dump()
    {
        $after = null;
        do {
            $page = Hub::shared()->values($after);
            foreach ($page['values'] as $pair) {
                self::say(Color::onTerminal(self::onOneLine($pair[0]), 'INFO') . ': ' . self::onOneLine(Server::shown($pair[1])));
            }
            $after = $page['next'];
        } while ($after !== null);
        return 0;
    }

    private function pid()
    {
        $pid = $this->server->getServerPid();
        return $pid === false || $pid === '' ? '' : ', pid ' . $pid;
    }

    /** No value can move the cursor of a terminal, or pass for another line. */
    private static function onOneLine($text)
    {
        return addcslashes($text, "\0..\37\177");
    }

    private static function say($line)
    {
        echo $line, "\n";
        return 0;
    }

    private static function complain($why, $code)
    {
        fwrite(STDERR, 'Comet: ' . $why . "\n");
        return $code;
    }
}
