<?php

namespace Comet\Internal;

/** The server as a script on the command line uses it. */
class Server
{
    private static $instances = array();

    private $serverName = 'CometServer';
    private $socketAddress;
    private $socketPort = 0;
    private $socketServer;
    private $pidLocation;

    public function __construct()
    {
        $this->socketAddress = Hub::shared()->setting('socket');
        $this->pidLocation = Hub::shared()->setting('data_dir') . '/comet.pid';
    }

    /** The one object of this class. */
    public static function create()
    {
        $class = get_called_class();
        if (!isset(self::$instances[$class])) {
            self::$instances[$class] = new static();
        }
        return self::$instances[$class];
    }

    public function __clone()
    {
        throw new \LogicException('there is only one server: it cannot be cloned');
    }

    public function __sleep()
    {
        throw new \LogicException('a server cannot be serialised');
    }

    public function __wakeup()
    {
        throw new \LogicException('a server cannot be unserialised');
    }

    /** Starts the server, where the configuration lets PHP do that; tells on the screen that it runs already, or why not. */
    public function start()
    {
        if ($this->isRunning()) {
            $pid = $this->getServerPid();
            $this->printMessage('Server already running' . ($pid === false ? '' : ' pid(' . $pid . ')'));
            return true;
        }
        $why = Hub::shared()->start();
        if ($why !== '') {
            $this->printMessage($why);
        }
        return $why === '';
    }

    /** Stops the server; gives its answer. */
    public function stop()
    {
        return $this->say("stop \0");
    }

    public function isRunning()
    {
        return Hub::shared()->isRunning();
    }

    /** The process id that the server has left in its data folder, or `false`. */
    public function getServerPid()
    {
        $pid = @file_get_contents($this->pidLocation);
        return $pid === false ? false : trim($pid);
    }

    public function write($key, $value)
    {
        Hub::shared()->write((string) $key, (string) $value, 'cli');
    }

    /** The value of a key as the command line sees it, and the two bytes that end an answer. */
    public function read($key)
    {
        $value = Hub::shared()->retained((string) $key);
        if ($value === null) {
            return " \0";
        }
        return self::shown($value) . " \0";
    }

    /** The text of a value as the command line sees it: what an old client wrote is decoded once, as its own did. */
    public static function shown(array $value)
    {
        return isset($value['seed_token']) ? urldecode((string) base64_decode($value['seed_token'])) : Value::text($value);
    }

    /** All keys and what they hold, still encoded. */
    public function dump()
    {
        return $this->say("dump \0");
    }

    public function printMessage($message)
    {
        echo "\n", $message;
    }

    public function getServerName()
    {
        return $this->serverName;
    }

    public function setServerName($serverName)
    {
        $this->serverName = $serverName;
    }

    public function getSocketAddress()
    {
        return $this->socketAddress;
    }

    public function setSocketAddress($socketAddress)
    {
        $this->socketAddress = $socketAddress;
    }

    public function getSocketPort()
    {
        return $this->socketPort;
    }

    public function setSocketPort($socketPort)
    {
        $this->socketPort = $socketPort;
    }

    public function getSocketServer()
    {
        return $this->socketServer;
    }

    public function setSocketServer($socketServer)
    {
        $this->socketServer = $socketServer;
    }

    public function getPidLocation()
    {
        return $this->pidLocation;
    }

    public function setPidLocation($pidLocation)
    {
        $this->pidLocation = $pidLocation;
    }

    private function say($request)
    {
        try {
            return Hub::shared()->wire($request);
        } catch (\RuntimeException $fault) {
            return $fault->getMessage();
        }
    }
}
