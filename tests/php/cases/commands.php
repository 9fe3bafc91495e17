<?php
/** `./Comet` in the drop-in folder: the seven commands, as scripts of the older versions call them. */

declare(strict_types=1);

require __DIR__ . '/../lib.php';

/** A folder as somebody uploads it, whose name has what shells trip over; its server does not run yet. */
function uploaded(array $config = []): string
{
    $site = folder() . "/it's a site";
    copy_all(ROOT . '/clients/php/drop-in', $site);
    copy(ROOT . '/clients/php/start.php', "$site/start.php");
    $config += ['data_dir' => folder() . '/data', 'binary' => realpath(Server::binary())];
    file_put_contents("$site/comet-config.php", '<?php return ' . var_export($config, true) . ';');
    return $site;
}

/** @return array{int,string,string} exit code, standard output, standard error */
function run(string $site, string ...$words): array
{
    $folder = folder();
    $line = implode(' ', array_map('escapeshellarg', array_merge(["$site/Comet"], $words)));
    exec("$line </dev/null >$folder/out 2>$folder/err", $none, $status);
    return [$status, file_get_contents("$folder/out"), file_get_contents("$folder/err")];
}

test('start, status and stop say what they did, and exit with what scripts look at', function (): void {
    $site = uploaded();
    [$status, $out, $err] = run($site, 'status');
    same([3, "not running\n"], [$status, $out]);
    yes(strpos($err, 'comet.sock') !== false, $err);
    [$status, $out, $err] = run($site, 'start');
    same([0, ''], [$status, $err]);
    yes(preg_match('~^started: running, pid (\d+)\n$~D', $out, $match) === 1, $out);
    same([0, "already running, pid $match[1]\n", ''], run($site, 'start'));
    same([0, "running, pid $match[1]\n", ''], run($site, 'status'));
    same([0, "stopped, pid $match[1]\n", ''], run($site, 'stop'));
    same([0, "already stopped: not running\n", ''], run($site, 'stop'));
});

test('values are written, read and dumped exactly, and the newer command line sees the same', function (): void {
    $server = new Server();
    $site = uploaded(['data_dir' => $server->data]);
    $values = ['plain' => 'two words', 'ünï €' => "quotes ' \" ` \$x \\", 'signs' => '100 % + 1 %2B', 'number' => '0', 'dashes' => '--help'];
    foreach ($values as $key => $value) {
        same([0, '', ''], run($site, 'write', (string) $key, $value));
        same([0, "value: $value\n", ''], run($site, 'read', (string) $key));
        same("value: $value\n", $server->cli('read', (string) $key));
    }
    $server->cli('write', 'newer', "a\nb");
    same([0, "value: a\nb\n", ''], run($site, 'read', 'newer'));
    same([0, "value:\n", ''], run($site, 'read', 'nobody wrote it'));
    [$status, $out, $err] = run($site, 'dump');
    same([0, ''], [$status, $err]);
    $lines = explode("\n", trim($out));
    same(count($values) + 1, count($lines));
    yes(in_array('plain: two words', $lines, true) && in_array('newer: a\nb', $lines, true), $out);
});

test('dump shows more keys than one page of the server has', function (): void {
    $server = new Server();
    $many = array_map(static fn (int $n): array => ['channel' => "key $n", 'data' => "$n", 'kind' => 'text', 'retain' => true], range(1, 501));
    foreach (array_chunk($many, 60) as $some) {
        $answer = http("unix://$server->socket", 'POST', '/v1/batch', ['Content-Type' => 'application/json'], json_encode(['publications' => $some]));
        same(200, $answer['status'], $answer['body']);
    }
    [$status, $out] = run(uploaded(['data_dir' => $server->data]), 'dump');
    same([0, 501], [$status, substr_count($out, "\n")]);
    yes(strpos($out, "key 501: 501\n") !== false, 'the last one');
});

test('help names all seven, and what is wrong is told with a code that is not 0', function (): void {
    $site = uploaded();
    [$status, $out] = run($site, 'help');
    same(0, $status);
    foreach (['start', 'stop', 'status', 'write', 'read', 'dump', 'help'] as $word) {
        yes(strpos($out, $word) !== false, $word);
    }
    foreach ([['write'], ['write', 'key'], ['read'], ['read', '']] as $words) {
        [$status, $out, $err] = run($site, ...$words);
        same([2, ''], [$status, $out], implode(' ', $words));
        yes(strpos($err, 'missing') !== false, $err);
    }
    foreach ([[], ['START'], ['write', 'a', 'b', 'c']] as $words) {
        [$status, $out] = run($site, ...$words);
        yes($status === 128 && strpos($out, 'help') !== false && strpos($out, "\033") === false, implode(' ', $words) . ": $status $out");
    }
    foreach ([['write', 'a', 'b'], ['read', 'a'], ['dump']] as $words) {
        [$status, $out, $err] = run($site, ...$words);
        same([1, "not running\n"], [$status, $out], implode(' ', $words));
        yes(strpos($err, 'comet-config.php') !== false, $err);
    }
});

test('start() in PHP says that the server runs already, with its number', function (): void {
    $server = new Server();
    $site = uploaded(['data_dir' => $server->data]);
    $pid = trim(file_get_contents("$server->data/comet.pid"));
    $script = folder() . '/start.php';
    file_put_contents($script, '<?php require ' . var_export("$site/lib/CometAutoloader.class.php", true) . '; var_dump(CometServer::create()->start());');
    $said = (string) shell_exec(escapeshellarg(PHP_BINARY) . ' ' . escapeshellarg($script) . ' 2>&1');
    yes(strpos($said, "already running pid($pid)") !== false && strpos($said, 'bool(true)') !== false, $said);
    $server->stop();
    $said = (string) shell_exec(escapeshellarg(PHP_BINARY) . ' ' . escapeshellarg($script) . ' 2>&1');
    yes(strpos($said, 'comet start') !== false && strpos($said, 'comet-config.php') !== false && strpos($said, 'bool(false)') !== false, $said);
});

test('texts in colours are what they were, byte for byte', function (): void {
    require_once ROOT . '/clients/php/drop-in/lib/CometAutoloader.class.php';
    $expected = [
        ["\033[37;41;1ma\033[0m", 'ERROR'],
        ["\033[32;1ma\033[0m", 'INFO'],
        ["\033[33ma\033[0m", 'COMMENT'],
        ["\033[30;46ma\033[0m", 'QUESTION'],
        ['a', 'NOBODY'],
        ["\033[ma\033[0m", []],
        ["\033[34;45;1;4;5;7;8ma\033[0m", ['conceal' => true, 'reverse' => true, 'blink' => true, 'underscore' => true, 'bold' => true, 'bg' => 'magenta', 'fg' => 'blue']],
        ["\033[40ma\033[0m", ['fg' => 'mauve', 'bg' => 'black', 'bold' => false]],
    ];
    foreach ($expected as [$text, $style]) {
        same($text, CometCliColor::format('a', $style));
        same($text, \Comet\Cli\Color::format('a', $style));
    }
    $color = new CometCliColor();
    $color->setStyle('MINE', ['fg' => 'cyan']);
    same("\033[36mb\033[0m", $color->_format('b', 'MINE'));
    same('b', CometCliColor::format('b', 'MINE'));
});
