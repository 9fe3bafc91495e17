<?php

namespace Comet\Cli;

use Comet\Util\Tools;

/** The arguments of a command line of three words: command, key, value. */
class ArgumentHandler
{
    private $argumentsL1 = array('start', 'stop', 'status', 'write', 'read', 'help', 'dump');
    private $command = array();
    private $options;

    /** @param array $options `args`: as `$argv`; `serverName` */
    public function __construct($options)
    {
        $this->options = Tools::arrayDeepMerge(array('args' => array(), 'serverName' => 'CometServer'), $options);
        foreach ($this->argumentsL1 as $word) {
            if (!defined(strtoupper($word))) {
                define(strtoupper($word), $word);
            }
        }
        $why = $this->complaint();
        if ($why !== null) {
            $this->throwMessage($why);
        }
        $names = array('command', 'key', 'value');
        foreach ($names as $index => $name) {
            $this->command[$name] = isset($this->options['args'][$index + 1]) ? $this->options['args'][$index + 1] : null;
        }
    }

    /** Are the arguments a command with at most a key and a value? */
    public function validateArgv()
    {
        return $this->complaint() === null;
    }

    /** @return array `command`, `key`, `value` */
    public function getCommand()
    {
        return $this->command;
    }

    public function setCommand($command)
    {
        $this->command = $command;
    }

    public function getServerName()
    {
        return $this->options['serverName'];
    }

    public function setServerName($serverName)
    {
        $this->options['serverName'] = $serverName;
    }

    public function getArgumentsL1()
    {
        return $this->argumentsL1;
    }

    public function setArgumentsL1($argumentsL1)
    {
        $this->argumentsL1 = $argumentsL1;
    }

    public function isParentCall()
    {
        return false;
    }

    public function getHelp()
    {
        return "\n  start, stop, status, dump, read KEY, write KEY \"VALUE\"";
    }

    public function printMessage($message, $endWithNewLine = false)
    {
        echo "\r", $message, $endWithNewLine ? "\n" : '';
    }

    /** Shows a message, and ends the script with 128 unless told not to. */
    public function throwMessage($message, $exit = true)
    {
        echo Color::onTerminal($this->getServerName(), 'COMMENT'), "\n ", $message;
        if ($exit) {
            echo "\n";
            exit(128);
        }
    }

    private function complaint()
    {
        $arguments = $this->options['args'];
        if (count($arguments) > 4) {
            return 'There are too many arguments: help lists the commands';
        }
        if (!isset($arguments[1])) {
            return 'A command is missing: help lists the commands';
        }
        return in_array($arguments[1], $this->argumentsL1, true) ? null : 'There is no such command: help lists them';
    }
}
