<?php

declare(strict_types=1);

namespace CometServer;

/**
 * Where the server is: options, else COMETSERVER_SOCKET and COMETSERVER_DATA_DIR, else a file `comet-config.php` beside the
 * client, else the default data folder.
 *
 * Under PHP-FPM a variable of ours usually does not arrive; the file is for that. It is PHP and returns an array, so that a web
 * server that sees it never shows what is in it.
 */
final class Locator
{
    /** The data folder of a server that root runs. */
    private const ROOT_DATA_DIR = '/var/lib/cometserver';

    /** Names of the file's entries that are passed on. */
    private const KNOWN = ['data_dir', 'socket', 'public_socket', 'url', 'key', 'binary', 'config', 'args', 'start', 'token_secret', 'token_secret_file', 'token_kid'];

    /**
     * All that is known, options first.
     *
     * @param array<string,mixed> $options
     *
     * @return array<string,mixed> `data_dir` and `socket` are always there
     */
    public static function resolve(array $options): array
    {
        $found = array_filter($options, static fn ($value): bool => $value !== null && $value !== '');
        $named = isset($found['socket']) || isset($found['data_dir']) || isset($found['url']);
        $socket = self::variable('COMETSERVER_SOCKET');
        $folder = self::variable('COMETSERVER_DATA_DIR');
        if (!$named && $socket !== null) {
            $found['socket'] = $socket;
        }
        if (!$named && $folder !== null) {
            $found['data_dir'] = $folder;
        }
        foreach (self::file($found['config_file'] ?? null) as $name => $value) {
            // Who says where it is in one place must not be mixed with what another says.
            $where = in_array($name, ['socket', 'data_dir', 'url', 'key'], true);
            if (!isset($found[$name]) && !($where && ($named || $socket !== null || $folder !== null))) {
                $found[$name] = $value;
            }
        }
        $looked = isset($found['data_dir']) || isset($found['socket']) ? [] : self::defaultDataDirs();
        $found['looked'] = self::looked($looked, $found['config_file'] ?? null);
        $found['data_dir'] = rtrim((string) ($found['data_dir'] ?? self::defaultDataDir()), '/');
        $found['socket'] = (string) ($found['socket'] ?? $found['data_dir'] . '/comet.sock');
        return $found;
    }

    /** The default data folder: that of this process's user, or that of the machine's server if only this one has a socket. */
    public static function defaultDataDir(): string
    {
        $folders = self::defaultDataDirs();
        foreach ($folders as $folder) {
            if (@file_exists("$folder/comet.sock")) {
                return $folder;
            }
        }
        return $folders[0];
    }

    /**
     * Where a server may be that nobody has named. PHP-FPM has a user of its own, whose home says nothing of the server's.
     *
     * @return string[]
     */
    private static function defaultDataDirs(): array
    {
        $user = function_exists('posix_geteuid') ? posix_geteuid() : null;
        $state = self::variable('XDG_STATE_HOME');
        $home = self::variable('HOME');
        if ($home === null && $user !== null && function_exists('posix_getpwuid')) {
            $home = posix_getpwuid($user)['dir'] ?? null;
        }
        $folders = [self::ROOT_DATA_DIR];
        if ($user !== 0 && $state !== null && $state[0] === '/') {
            $folders = ["$state/cometserver", self::ROOT_DATA_DIR];
        } elseif ($user !== 0 && $home !== null && $home !== '') {
            $folders = [rtrim($home, '/') . '/.local/state/cometserver', self::ROOT_DATA_DIR];
        }
        return $folders;
    }

    /** @param string[] $folders */
    private static function looked(array $folders, ?string $file): string
    {
        $text = 'Looked for the file ' . implode(' and ', self::places($file));
        return $folders === [] ? $text : "$text, and for a server in " . implode(' and ', $folders);
    }

    /**
     * Beside the package, and beside the folder that it was uploaded in.
     *
     * @return string[]
     */
    private static function places(?string $path): array
    {
        return $path !== null ? [$path] : [dirname(__DIR__) . '/comet-config.php', dirname(__DIR__, 2) . '/comet-config.php'];
    }

    /** @return array<string,mixed> */
    private static function file(?string $path): array
    {
        foreach (self::places($path) as $place) {
            if (@is_file($place)) {
                $entries = include $place;
                return is_array($entries) ? array_intersect_key($entries, array_flip(self::KNOWN)) : [];
            }
        }
        return [];
    }

    private static function variable(string $name): ?string
    {
        $value = function_exists('getenv') ? getenv($name) : false;
        if ($value === false || $value === '') {
            $value = $_SERVER[$name] ?? '';
        }
        return is_string($value) && $value !== '' ? $value : null;
    }
}
