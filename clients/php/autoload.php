<?php
/** Loads the client without Composer: `require 'clients/php/autoload.php';`. */

declare(strict_types=1);

(static function (): void {
    // A list rather than a rule, which would take functions: a host may forbid any. A class comes after the one that it extends.
    $files = [
        'CometServer\Exception\CometException' => 'Exception/CometException',
        'CometServer\Exception\BadAnswer' => 'Exception/BadAnswer',
        'CometServer\Exception\CannotRead' => 'Exception/CannotRead',
        'CometServer\Exception\ConnectionLost' => 'Exception/ConnectionLost',
        'CometServer\Exception\Refused' => 'Exception/Refused',
        'CometServer\Exception\Conflict' => 'Exception/Conflict',
        'CometServer\Exception\Lacking' => 'Exception/Lacking',
        'CometServer\Exception\NotAllowed' => 'Exception/NotAllowed',
        'CometServer\Exception\NotFound' => 'Exception/NotFound',
        'CometServer\Exception\TimedOut' => 'Exception/TimedOut',
        'CometServer\Exception\TooLarge' => 'Exception/TooLarge',
        'CometServer\Exception\TryLater' => 'Exception/TryLater',
        'CometServer\Exception\Unreachable' => 'Exception/Unreachable',
        'CometServer\Needs' => 'Needs',
        'CometServer\Breaker' => 'Breaker',
        'CometServer\Http' => 'Http',
        'CometServer\Json' => 'Json',
        'CometServer\Locator' => 'Locator',
        'CometServer\Message' => 'Message',
        'CometServer\Token' => 'Token',
        'CometServer\Unreadable' => 'Unreadable',
        'CometServer\Client' => 'Client',
    ];
    $load = static function (string $class) use ($files): void {
        if (isset($files[$class])) {
            require_once __DIR__ . "/src/{$files[$class]}.php";
        }
    };
    try {
        $registered = @spl_autoload_register($load) === true;
    } catch (\Error $forbidden) {
        $registered = false;
    }
    if (!$registered) {
        foreach ($files as $class => $file) {
            $load($class);
        }
    }
})();
