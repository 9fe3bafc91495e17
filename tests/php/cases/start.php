<?php
/** Starting the server from PHP: once, clean, and where it may be. */

declare(strict_types=1);

require __DIR__ . '/../lib.php';
require ROOT . '/clients/php/start.php';
require ROOT . '/clients/php/autoload.php';

function config(array $more = []): array
{
    $data = folder() . '/data';
    return $more + ['data_dir' => $data, 'socket' => "$data/comet.sock", 'binary' => realpath(Server::binary())];
}

function stop(array $config): void
{
    comet('stop', '--data-dir', $config['data_dir']);
}

function pid(array $config): int
{
    return (int) file_get_contents($config['data_dir'] . '/comet.pid');
}

test('a server that does not run is started, and one that runs is left alone', function (): void {
    $config = config();
    $first = CometServerStart::ensure($config);
    same(['running' => true, 'started' => true, 'message' => ''], $first);
    same(['running' => true, 'started' => false, 'message' => ''], CometServerStart::ensure($config));
    stop($config);
});

test('of many that start it at once one does, and there is one server', function (): void {
    $config = config();
    $results = folder() . '/results';
    for ($n = 0; $n < 8; $n++) {
        beside(static function () use ($config, $results): void {
            $result = CometServerStart::ensure($config);
            file_put_contents($results, ($result['running'] ? '' : 'not ') . 'running' . ($result['started'] ? ', started' : '') . "\n", FILE_APPEND);
        });
    }
    join_all();
    $lines = file($results, FILE_IGNORE_NEW_LINES);
    sort($lines);
    same(array_merge(array_fill(0, 7, 'running'), ['running, started']), $lines);
    stop($config);
});

foreach (['exec', 'proc_open', 'shell_exec', 'popen'] as $way) {
    test("it is started where only $way is allowed", function () use ($way): void {
        $config = config();
        $script = folder() . '/start.php';
        file_put_contents($script, '<?php require ' . var_export(ROOT . '/clients/php/start.php', true) . '; echo CometServerStart::way(), json_encode(CometServerStart::ensure(' . var_export($config, true) . '));');
        $disabled = implode(',', array_diff(['exec', 'proc_open', 'shell_exec', 'popen', 'passthru', 'system'], [$way]));
        $process = new Process([PHP_BINARY, '-d', "disable_functions=$disabled", $script]);
        until('it ends', static fn (): bool => !$process->isRunning());
        same($way . '{"running":true,"started":true,"message":""}', $process->output());
        stop($config);
    });
}

test('where PHP may start nothing it says which line starts it by cron', function (): void {
    $config = config();
    $script = folder() . '/start.php';
    file_put_contents($script, '<?php require ' . var_export(ROOT . '/clients/php/start.php', true) . '; echo CometServerStart::ensure(' . var_export($config, true) . ')["message"];');
    $process = new Process([PHP_BINARY, '-d', 'disable_functions=exec,proc_open,shell_exec,popen,passthru,system', $script]);
    until('it ends', static fn (): bool => !$process->isRunning());
    yes(preg_match('~(\* \* \* \* \* .* start .*--data-dir .*) >/dev/null~', $process->output(), $match), $process->output());
    yes(strpos($process->output(), $config['binary']) !== false, 'with the path of the program');
    // The line works.
    shell_exec('env -i PATH=/usr/bin:/bin sh -c ' . escapeshellarg(substr($match[1], strlen('* * * * * '))) . ' 2>&1');
    yes(answers($config['socket']), 'the line starts it');
    stop($config);
});

test('the server takes nothing of the request along: no environment, no descriptor, no session', function (): void {
    $config = config();
    $script = folder() . '/start.php';
    $held = folder() . '/held';
    file_put_contents($script, '<?php $l = stream_socket_server("tcp://127.0.0.1:0"); $h = fopen(' . var_export($held, true) . ', "w"); foreach (glob("/proc/self/fd/*") as $f) { $t = @readlink($f); if (strpos($t, "socket:") === 0) fwrite($h, $t); } fflush($h);
        require ' . var_export(ROOT . '/clients/php/start.php', true) . '; CometServerStart::ensure(' . var_export($config, true) . ');');
    $process = new Process([PHP_BINARY, $script], ['HTTP_COOKIE' => 'secret', 'COMETSERVER_KEY' => 'secret']);
    until('the request ends', static fn (): bool => !$process->isRunning());
    $pid = pid($config);
    if (!is_dir("/proc/$pid")) {
        throw new Skipped('no /proc here');
    }
    yes(strpos((string) file_get_contents("/proc/$pid/environ"), 'secret') === false, 'no environment');
    $ours = (string) file_get_contents($held);
    yes(strpos($ours, 'socket:') === 0, 'the request had a listener');
    foreach (glob("/proc/$pid/fd/*") as $fd) {
        $to = (string) @readlink($fd);
        yes($to !== $held && ($to === '' || strpos($ours, $to) === false), "neither the file nor the listener: $to");
    }
    same((string) $pid, trim(shell_exec("ps -o sid= -p $pid")));
    stop($config);
});

test('a failure is told with what the program said, and remembered for some seconds', function (): void {
    $program = folder() . '/broken';
    file_put_contents($program, "#!/bin/sh\necho x >>$program.count\necho no disk space >&2\nexit 1\n");
    chmod($program, 0644);
    $config = config(['binary' => $program]);
    mkdir($config['data_dir']);
    $began = microtime(true);
    $result = CometServerStart::ensure($config);
    yes(!$result['running'] && strpos($result['message'], 'no disk space') !== false, shown($result));
    yes(is_executable($program), 'the bit that FTP drops is set');
    $again = CometServerStart::ensure($config);
    same($result['message'], $again['message']);
    same("x\n", file_get_contents("$program.count"));
    yes(strpos(CometServerStart::ensure(config(['binary' => '/does/not/exist']))['message'], 'could not be started') !== false, 'a wrong path');
});

test('a folder that others could have made is not trusted', function (): void {
    $data = folder();
    $elsewhere = folder();
    symlink($elsewhere, "$data/php");
    yes(CometServerStart::stateFolder(['data_dir' => $data]) !== "$data/php", 'a link is not followed');
    unlink("$data/php");
    same("$data/php", CometServerStart::stateFolder(['data_dir' => $data]));
    same('0700', substr(sprintf('%o', fileperms("$data/php")), -4));
});

test('the client starts it if it is told to, and not otherwise', function (): void {
    $config = config();
    yes((new CometServer\Client($config))->tryPublish('a', 1) === null, 'not by itself');
    yes((new CometServer\Client($config + ['start' => true]))->tryPublish('a', 1) !== null, 'told to');
    stop($config);
});

test('the drop-in starts it only if its configuration says so', function (): void {
    foreach ([false, true] as $may) {
        $config = config(['start' => $may]);
        $root = folder();
        copy_all(ROOT . '/clients/php/drop-in', "$root/comet");
        copy(ROOT . '/clients/php/start.php', "$root/comet/start.php");
        file_put_contents("$root/comet/comet-config.php", '<?php return ' . var_export($config, true) . ';');
        file_put_contents("$root/write.php", '<?php require "comet/config/bootstrap.php"; $w = new Comet\Web\CInterface(array(), "k"); echo $w->write("x"), $w->readOnce("k");');
        $process = new Process([PHP_BINARY, "$root/write.php"], [], $root);
        until('it ends', static fn (): bool => !$process->isRunning());
        if ($may) {
            same('value: x', $process->output());
            stop($config);
        } else {
            yes(strpos($process->output(), 'not running') !== false, $process->output());
        }
    }
});

test('FPM on a port starts again after the bridge has started the server', function (): void {
    $config = config(['start' => true]);
    $root = folder();
    copy(ROOT . '/clients/php/bridge.php', "$root/bridge.php");
    copy(ROOT . '/clients/php/start.php', "$root/start.php");
    file_put_contents("$root/comet-config.php", '<?php return ' . var_export($config, true) . ';');
    $fpm = new Web($root, [], 2, freeAddress());
    $answer = $fpm->get('/bridge.php?call=now');
    same(200, $answer['status'], shown($answer));
    yes(answers($config['socket']), 'the server runs');
    $fpm->process->end();
    until('the port is free', static fn (): bool => !answers($fpm->address));
    $fpm->start();
    yes($fpm->get('/bridge.php?call=now')['status'] > 0, 'and it answers');
    $fpm->process->end();
    yes(answers($config['socket']), 'the server runs on');
    stop($config);
});
