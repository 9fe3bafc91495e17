<?php
/**
 * Starts the server if it is not running: used by the bridge, the drop-in folder and the client.
 *
 * PHP 5.3 syntax. One winner under concurrency (a lock here, and the server's own), never waits longer than
 * [LIMIT], and remembers for some seconds that it did not work, so that a broken host is not asked by every visitor.
 */

if (!class_exists('CometServerStart', false)) {

    class CometServerStart
    {
        /** How long a start may take, in seconds; a server that needs longer goes on, and the next request finds it. */
        const LIMIT = 4.0;

        /** For how long a failure is remembered, in seconds. */
        const REMEMBER = 10;

        /** How often we look whether it answers, in microseconds. */
        const LOOK_EVERY = 20000;

        /** How much of a failed start's output is told. */
        const OUTPUT = 2000;

        /** What stands before the exit code in that output. */
        const ENDED = 'comet start ended with';

        private static $needs = array('clearstatcache', 'dirname', 'fclose', 'file_get_contents', 'file_put_contents', 'filemtime', 'fileowner',
            'fopen', 'is_dir', 'is_executable', 'is_file', 'is_link', 'is_resource', 'is_writable', 'md5', 'microtime', 'mkdir', 'rtrim',
            'str_replace', 'strpos', 'time', 'trim', 'unlink');

        /**
         * Makes sure that a server answers.
         *
         * @param array $config `data_dir` and `socket` are needed; `binary`: the path of `comet`; `config`: a
         *                      configuration file for it; `args`: more arguments of `comet start`
         *
         * @return array `running`: does it answer now? `started`: did this call start it? `message`: why not
         */
        public static function ensure(array $config)
        {
            $lacks = self::lacks();
            if ($lacks !== null) {
                return self::result(false, false, 'PHP has no function ' . $lacks . '() here: take it out of disable_functions in php.ini, or start the server by hand');
            }
            $errno = self::connect($config['socket']);
            if ($errno === 0) {
                return self::result(true, false, '');
            }
            if ($errno === 13) {
                return self::result(false, false, 'the socket ' . $config['socket'] . ' is not open to this user: see socket_mode and socket_group');
            }
            // First, so that all who come at once meet at the same lock. The mode is the one that the server gives it.
            if (!empty($config['data_dir']) && !@is_dir($config['data_dir']) && @mkdir($config['data_dir'], 0711, true) && function_exists('chmod')) {
                @chmod($config['data_dir'], 0711);
            }
            $state = self::stateFolder($config);
            $name = $state === null ? null : $state . '/start-' . md5($config['socket']);
            $failed = $name === null ? null : self::remembered($name . '.failed');
            if ($failed !== null) {
                return self::result(false, false, $failed);
            }
            $lock = $name === null || !function_exists('flock') ? false : @fopen($name . '.lock', 'c');
            if ($lock && !flock($lock, LOCK_EX | LOCK_NB)) {
                // Somebody else is starting it.
                fclose($lock);
                $running = self::wait($config['socket'], self::LIMIT);
                return self::result($running, false, $running ? '' : 'the server is being started, but does not answer yet');
            }
            // It may have come up between our look and our lock.
            $result = self::connect($config['socket']) === 0
                ? self::result(true, false, '')
                : self::start($config, $name === null ? '/dev/null' : $name . '.out');
            if ($name !== null && !$result['running']) {
                @file_put_contents($name . '.failed', $result['message']);
            }
            if ($lock) {
                flock($lock, LOCK_UN);
                fclose($lock);
            }
            return $result;
        }

        /**
         * The line for a crontab, where PHP may start nothing: it starts the server within a minute, and does nothing
         * while it runs.
         */
        public static function cronLine(array $config)
        {
            $binary = self::binary($config);
            return '* * * * * ' . self::command($config, $binary === null ? '/path/to/comet' : $binary) . ' >/dev/null 2>&1';
        }

        /** The first function that is needed here and forbidden, or `null`. What is not in the list is done without. */
        private static function lacks()
        {
            foreach (self::$needs as $name) {
                if (!function_exists($name)) {
                    return $name;
                }
            }
            // One of the two will do.
            return function_exists('stream_socket_client') || function_exists('fsockopen') ? null : 'stream_socket_client';
        }

        /** May PHP start a process here, and through which function? */
        public static function way()
        {
            foreach (array('exec', 'proc_open', 'shell_exec', 'popen') as $function) {
                // False for what disable_functions names, too.
                if (function_exists($function)) {
                    return $function;
                }
            }
            return null;
        }

        /**
         * A folder for small files of ours which nobody else can write to: in the data folder, else among the
         * temporary files. `null` if there is none.
         */
        public static function stateFolder(array $config)
        {
            if (self::lacks() !== null) {
                return null;
            }
            $user = function_exists('posix_geteuid') ? posix_geteuid() : null;
            $folders = array();
            if (!empty($config['data_dir']) && @is_dir($config['data_dir']) && @is_writable($config['data_dir'])) {
                $folders[] = $config['data_dir'] . '/php';
            }
            if (function_exists('sys_get_temp_dir')) {
                $folders[] = rtrim(sys_get_temp_dir(), '/') . '/cometserver-' . ($user === null ? md5(__FILE__) : $user);
            }
            foreach ($folders as $folder) {
                // What somebody else made in a folder open to all is not ours, and a link leads anywhere.
                if (!@is_dir($folder)) {
                    @mkdir($folder, 0700);
                }
                $mine = @is_dir($folder) && !@is_link($folder) && ($user === null || @fileowner($folder) === $user);
                if ($mine && @is_writable($folder)) {
                    return $folder;
                }
            }
            return null;
        }

        /** Zero if a server answers on the socket, else why not, as the system's number. */
        public static function connect($socket)
        {
            $errno = 0;
            $errstr = '';
            $stream = false;
            if (function_exists('stream_socket_client')) {
                $stream = @stream_socket_client('unix://' . $socket, $errno, $errstr, 0.3);
            } elseif (function_exists('fsockopen')) {
                $stream = @fsockopen('unix://' . $socket, -1, $errno, $errstr, 0.3);
            }
            if (!$stream) {
                return $errno === 0 ? 2 : $errno;
            }
            fclose($stream);
            return 0;
        }

        private static function start(array $config, $output)
        {
            $binary = self::binary($config);
            if ($binary === null) {
                return self::result(false, false, 'the program comet was not found: name it as `binary` in comet-config.php');
            }
            $way = self::way();
            if ($way === null) {
                return self::result(false, false, 'PHP may start no process here: add this line to the crontab, or start it by hand: ' . self::cronLine($config));
            }
            // An upload by FTP loses the executable bit.
            if (@is_file($binary) && !@is_executable($binary) && function_exists('chmod')) {
                @chmod($binary, 0755);
            }
            @unlink($output);
            self::run($way, $config, $binary, $output);
            if (self::wait($config['socket'], self::LIMIT, $output)) {
                return self::result(true, true, '');
            }
            $said = trim((string) @file_get_contents($output, false, null, 0, self::OUTPUT));
            $why = $said === '' ? 'it did not answer in time' : $said;
            return self::result(false, false, 'the server could not be started: ' . $why . '; by cron: ' . self::cronLine($config));
        }

        /**
         * In the background, with nothing of ours: no stream (or this request would never end), no session of the
         * web server's, no environment (under CGI it holds the visitor's cookies). `comet start` closes whatever else
         * it inherits.
         */
        private static function run($way, array $config, $binary, $output)
        {
            $clean = 'env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=' . self::quoted(self::home());
            $line = '( $(command -v setsid) ' . $clean . ' ' . self::command($config, $binary) . '; echo "' . self::ENDED . ' $?" )'
                . ' </dev/null >' . self::quoted($output) . ' 2>&1 &';
            switch ($way) {
                case 'exec':
                    exec($line);
                    break;
                case 'shell_exec':
                    shell_exec($line);
                    break;
                case 'popen':
                    $process = @popen($line, 'r');
                    if ($process && function_exists('pclose')) {
                        pclose($process);
                    }
                    break;
                default:
                    $null = array('file', '/dev/null', 'r+');
                    $pipes = array();
                    $process = @proc_open($line, array($null, $null, $null), $pipes);
                    if (is_resource($process) && function_exists('proc_close')) {
                        proc_close($process);
                    }
            }
        }

        private static function command(array $config, $binary)
        {
            $command = self::quoted($binary) . ' start';
            if (!empty($config['data_dir'])) {
                $command .= ' --data-dir ' . self::quoted($config['data_dir']);
            }
            // Only if it is not where the server puts it by itself.
            if (empty($config['data_dir']) || $config['socket'] !== $config['data_dir'] . '/comet.sock') {
                $command .= ' --socket ' . self::quoted($config['socket']);
            }
            if (!empty($config['config'])) {
                $command .= ' --config ' . self::quoted($config['config']);
            }
            foreach (isset($config['args']) ? (array) $config['args'] : array() as $argument) {
                $command .= ' ' . self::quoted($argument);
            }
            return $command;
        }

        /** Where the program is; what the configuration says is believed, since open_basedir may hide it from us. */
        private static function binary(array $config)
        {
            if (!empty($config['binary'])) {
                return $config['binary'];
            }
            $places = array(dirname(__FILE__) . '/comet', dirname(__FILE__) . '/bin/comet', dirname(dirname(__FILE__)) . '/bin/comet');
            if (!empty($config['data_dir'])) {
                $places[] = $config['data_dir'] . '/comet';
            }
            $places[] = '/usr/local/bin/comet';
            $places[] = '/usr/bin/comet';
            foreach ($places as $place) {
                // Where letters are not told apart, that is the script Comet of the drop-in folder.
                if (@is_file($place) && @file_get_contents($place, false, null, 0, 2) !== '#!') {
                    return $place;
                }
            }
            return null;
        }

        private static function home()
        {
            $home = function_exists('getenv') ? getenv('HOME') : false;
            if (($home === false || $home === '') && function_exists('posix_getpwuid') && function_exists('posix_geteuid')) {
                $user = posix_getpwuid(posix_geteuid());
                $home = $user ? $user['dir'] : '';
            }
            return $home === false || $home === '' ? '/' : $home;
        }

        /** Waits until it answers, or, with an output, until the program has failed. */
        private static function wait($socket, $seconds, $output = null)
        {
            $until = microtime(true) + $seconds;
            do {
                // Before the connection is tried: what had ended well by then has a server that answers.
                $ended = $output !== null && strpos((string) @file_get_contents($output, false, null, 0, self::OUTPUT), self::ENDED) !== false;
                if (self::connect($socket) === 0) {
                    return true;
                }
                self::pause();
            } while (!$ended && microtime(true) < $until);
            return false;
        }

        private static function pause()
        {
            if (function_exists('usleep')) {
                usleep(self::LOOK_EVERY);
            } elseif (function_exists('time_nanosleep')) {
                time_nanosleep(0, self::LOOK_EVERY * 1000);
            }
        }

        /** An argument for the shell. Not escapeshellarg(): hosts forbid it together with what it is for. */
        private static function quoted($argument)
        {
            return "'" . str_replace(array("\0", "'"), array('', "'\\''"), (string) $argument) . "'";
        }

        private static function remembered($file)
        {
            clearstatcache();
            $time = @filemtime($file);
            if ($time === false || $time + self::REMEMBER < time()) {
                return null;
            }
            return (string) @file_get_contents($file, false, null, 0, self::OUTPUT * 2);
        }

        private static function result($running, $started, $message)
        {
            return array('running' => $running, 'started' => $started, 'message' => $message);
        }
    }
}
