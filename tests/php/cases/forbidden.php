<?php
/**
 * PHP in which the host forbids functions: each one that ours calls is forbidden in turn. It then works without, or says which one it
 * is. And what is shown of files that are asked for by their address.
 */

declare(strict_types=1);

require __DIR__ . '/../lib.php';

const PHP = ROOT . '/clients/php';

/** @return string[] the files of a part */
function files_of(string $part): array
{
    if ($part === 'bridge') {
        return [PHP . '/bridge.php', PHP . '/start.php'];
    }
    $found = [PHP . '/start.php'];
    $folder = $part === 'client' ? PHP . '/src' : PHP . '/drop-in';
    foreach (new RecursiveIteratorIterator(new RecursiveDirectoryIterator($folder, FilesystemIterator::SKIP_DOTS)) as $file) {
        if ($file->getExtension() === 'php' || $file->getFilename() === 'Comet') {
            $found[] = $file->getPathname();
        }
    }
    return $part === 'client' ? array_merge($found, [PHP . '/autoload.php']) : $found;
}

/** @return string[] the functions of PHP's that a file calls */
function calls(string $file): array
{
    $blank = [T_WHITESPACE, T_COMMENT, T_DOC_COMMENT];
    $tokens = array_values(array_filter(token_get_all(file_get_contents($file)), static fn ($t): bool => !is_array($t) || !in_array($t[0], $blank, true)));
    $found = [];
    foreach ($tokens as $index => $token) {
        $before = $tokens[$index - 1] ?? null;
        $isMember = is_array($before) && in_array($before[0], [T_OBJECT_OPERATOR, T_DOUBLE_COLON, T_FUNCTION, T_NEW], true);
        if (is_array($token) && $token[0] === T_STRING && ($tokens[$index + 1] ?? '') === '(' && !$isMember) {
            $found[] = strtolower($token[1]);
        }
    }
    // Such as apcu_fetch(), which need not be there.
    return array_values(array_unique(array_filter($found, 'function_exists')));
}

/** @return array<string,true> the functions of a part */
function called_in(string $part): array
{
    $names = array_merge(...array_map('calls', files_of($part)));
    sort($names);
    return array_fill_keys(array_values(array_unique($names)), true);
}

/** Begins a script, in PHP without these functions. */
function begin(string $disabled, string $script, array $program = [PHP_BINARY], array $environment = []): Process
{
    $settings = ['-d', "disable_functions=$disabled", '-d', 'display_errors=1', '-d', 'error_reporting=32767', '-d', 'log_errors=0'];
    return new Process(array_merge($program, $settings, [$script]), $environment);
}

/** What a process has printed when it has ended, also on standard error. */
function printed(Process $process): string
{
    until('a script ends', static fn (): bool => !$process->isRunning());
    return $process->output();
}

/** Does a script without each of the functions; some at a time, since most of each is waiting. */
function without_each(array $functions, string $script): array
{
    $outputs = [];
    foreach (array_chunk($functions, 12) as $some) {
        $begun = [];
        foreach ($some as $function) {
            $begun[$function] = begin($function, $script);
        }
        $outputs += array_map('printed', $begun);
    }
    return $outputs;
}

/** The script of a part: prints `works`, or the text of its own exception. */
function script(string $part, Server $server): string
{
    $data = var_export($server->data, true);
    $client = var_export(PHP . '/autoload.php', true);
    $folder = folder();
    copy_all(PHP . '/drop-in', "$folder/site");
    copy(PHP . '/start.php', "$folder/site/start.php");
    file_put_contents("$folder/site/comet-config.php", "<?php return array('data_dir' => $data, 'start' => true);");
    $use = [
        'client' => "try { require $client;
            \$comet = new CometServer\\Client(['data_dir' => $data, 'start' => true]);
            \$comet->publish('a', [1], ['retain' => true, 'tags' => ['x' => 'y']]); \$comet->tryPublish('a', 'b', ['kind' => 'binary']);
            \$comet->publishMany([['channel' => 'a', 'data' => 1]]); \$comet->read('a'); \$comet->history('a'); \$comet->presence('a'); \$comet->now();
            \$comet->tryNow(); \$comet->delete('a'); \$comet->deleteHistory('a');
            CometServer\\Token::create('0123456789abcdef0123456789abcdef', ['channels' => ['a']]);
            echo 'works'; } catch (CometServer\\Exception\\CometException \$fault) { echo 'told: ', \$fault->getMessage(); }",
        'drop-in' => "try { require '$folder/site/lib/CometAutoloader.class.php'; require '$folder/site/config/bootstrap.php';
            \$comet = new CometWebInterface(array('runTimeLimit' => 1), array('a')); \$said = \$comet->write('b') . \$comet->refresh();
            \$comet->readOnce(array('a')); Comet\\Internal\\Server::create()->isRunning(); CometCliColor::format('a', 'INFO');
            \$helper = CometWebJsHelper::create(); \$server = CometServer::create(); \$server->write('k', 'v'); \$server->read('k'); \$server->dump();
            \$comet->readAsXml();
            echo \$said === '' ? 'works' : \$said; } catch (Comet\\Internal\\CometException \$fault) { echo 'told: ', \$fault->getMessage(); }",
    ];
    file_put_contents("$folder/use.php", '<?php ' . $use[$part]);
    return "$folder/use.php";
}

/** Either all is well, or the function is named. */
function works_or_names(string $function, string $output): void
{
    yes($output === 'works' || (strpos($output, 'told: ') === 0 && strpos($output, " $function() ") !== false), "without $function: " . shown($output));
}

foreach (['client', 'drop-in'] as $part) {
    test("the $part works without any one of the functions that it calls, or names it", function () use ($part): void {
        $server = new Server();
        $script = script($part, $server);
        same('works', printed(begin('', $script)));
        $worked = 0;
        foreach (without_each(array_keys(called_in($part)), $script) as $function => $output) {
            works_or_names($function, $output);
            $worked += $output === 'works' ? 1 : 0;
        }
        yes($worked >= 10, "only $worked can be done without");
    });

    test("the $part does without what hosts forbid most, all at once", function () use ($part): void {
        $usual = 'getenv,putenv,sys_get_temp_dir,proc_open,exec,shell_exec,popen,pclose,passthru,system,escapeshellarg,set_time_limit,ignore_user_abort,'
            . 'usleep,flock,symlink,link,chmod,chown,posix_geteuid,posix_getpwuid,posix_isatty,ini_set,ini_get,hrtime,getmypid,error_log,php_uname,'
            . 'phpinfo,mail,fsockopen,pfsockopen,curl_exec,parse_ini_file';
        $server = new Server();
        $script = script($part, $server);
        same('works', printed(begin($usual, $script)));
        same('works', printed(begin('stream_socket_client', $script)), 'the other function that connects');
        works_or_names('stream_socket_client', printed(begin('stream_socket_client,fsockopen', $script)));
    });
}

/** A request to the bridge, or another script, as a web server makes it: the status and the body. */
function ask_bridge(string $disabled, string $bridge, string $query, string $method = 'GET'): array
{
    $program = trim((string) shell_exec('command -v php-cgi'));
    if ($program === '') {
        throw new Skipped('php-cgi is not installed');
    }
    $environment = ['REDIRECT_STATUS' => '200', 'SCRIPT_FILENAME' => $bridge, 'SCRIPT_NAME' => '/bridge.php', 'REQUEST_METHOD' => $method,
        'QUERY_STRING' => $query, 'REMOTE_ADDR' => '192.0.2.1', 'HTTP_HOST' => 'localhost', 'CONTENT_LENGTH' => '0'];
    $answer = cgiAnswer(printed(begin($disabled, $bridge, [$program], $environment)));
    return [$answer['status'], $answer['body']];
}

test('the bridge works without any one of the functions that it calls, or names it in a problem', function (): void {
    $server = new Server(['--namespace-default-public', 'true']);
    $folder = folder();
    copy(PHP . '/bridge.php', "$folder/bridge.php");
    copy(PHP . '/start.php', "$folder/start.php");
    file_put_contents("$folder/comet-config.php", '<?php return array("data_dir" => ' . var_export($server->data, true) . ', "start" => true);');
    $asked = [['call=/v1/now', 'GET', '"cursor"'], ['call=/v1/poll&channel=a&wait_ms=0', 'GET', '"publications"'], ['probe=1', 'GET', 'data: '],
        ['call=/v1/release&session=x', 'POST', 'released']];
    foreach ($asked as [$query, $method, $good]) {
        [$status, $body] = ask_bridge('', "$folder/bridge.php", $query, $method);
        yes($status === 200 && strpos($body, $good) !== false, "$query: $status " . shown($body));
    }
    foreach (called_in('bridge') as $function => $true) {
        foreach ($asked as [$query, $method, $good]) {
            [$status, $body] = ask_bridge($function, "$folder/bridge.php", $query, $method);
            $works = $status === 200 && strpos($body, $good) !== false;
            $problem = json_decode($body, true);
            $named = isset($problem['detail']) && strpos($problem['detail'], "$function()") !== false && ($status === 503 || $function === 'http_response_code' || $function === 'header');
            yes($works || $named, "without $function, $query: $status " . shown($body));
            if ($named) {
                break;
            }
        }
    }
});

test('the bridge answers a broken configuration, and a fault that nobody can catch, with a problem', function (): void {
    $folder = folder();
    copy(PHP . '/bridge.php', "$folder/bridge.php");
    foreach (['<?php return array(', '<?php throw new Exception("secret place");', '<?php nowhere();', '<?php str_repeat("x", 1 << 40);'] as $config) {
        file_put_contents("$folder/comet-config.php", $config);
        [$status, $body] = ask_bridge('', "$folder/bridge.php", 'call=/v1/now');
        same([500, 'unavailable'], [$status, json_decode($body, true)['code'] ?? $body], $config);
        yes(strpos($body, $folder) === false && strpos($body, 'secret') === false, $body);
    }
});

test('each function that is called is in the list of its part, or is asked for where it is called', function (): void {
    $lists = ['client' => PHP . '/src/Needs.php', 'bridge' => PHP . '/bridge.php', 'drop-in' => PHP . '/drop-in/lib/Comet/Internal/Needs.php'];
    foreach ($lists as $part => $list) {
        foreach (files_of($part) as $file) {
            $known = file_get_contents($file === PHP . '/start.php' ? $file : $list);
            $own = file_get_contents($file);
            foreach (calls($file) as $function) {
                $is = $function === 'function_exists' || strpos($known, "'$function'") !== false || strpos($own, "function_exists('$function')") !== false;
                // The first of these is tried, the second only loads a class of ours where another one has not.
                $is = $is || ($function === 'spl_autoload_register' && $part === 'client') || strpos($own, 'foreach (array(\'exec\'') !== false && in_array($function, ['exec', 'proc_open', 'shell_exec', 'popen'], true);
                yes($is || ($function === 'class_exists' && basename($file) === 'start.php'), "$function in $file");
            }
        }
    }
});

test('the page that sets everything up shows itself without any one of the functions that it calls, or names it', function (): void {
    $folder = folder();
    copy_all(ROOT . '/dist/comet', $folder);
    $setup = "$folder/setup.php";
    foreach (array_merge([''], calls($setup)) as $function) {
        [$status, $body] = ask_bridge($function, $setup, '');
        $named = $function !== '' && strpos($body, "PHP has no function $function() ") === 0;
        yes($named || ($status === 200 && stripos($body, '<!doctype html>') === 0), "without $function: $status " . shown($body));
        $code = file_get_contents($setup);
        $known = strpos($code, "'$function'") !== false || $function === 'function_exists';
        yes($known, "$function is not asked for in setup.php");
        @unlink("$folder/setup-state.php");
    }
});

test('the list of classes that are loaded without Composer is complete', function (): void {
    $list = file_get_contents(PHP . '/autoload.php');
    foreach (files_of('client') as $file) {
        if (strpos($file, PHP . '/src/') === 0) {
            $name = substr($file, strlen(PHP . '/src/'), -4);
            yes(strpos($list, "=> '$name'") !== false, $name);
        }
    }
});

test('a file of ours that is asked for by its address shows nothing', function (): void {
    $web = new Web(realpath(PHP));
    $files = array_merge(files_of('client'), files_of('drop-in'));
    foreach ($files as $file) {
        if (basename($file) === 'Comet') {
            continue;
        }
        $answer = $web->get(substr(realpath($file), strlen(realpath(PHP))));
        same([200, ''], [$answer['status'], trim($answer['body'])], $file);
    }
});

/** A site in PHP-FPM as a user without rights, in which the folder of the machine's servers is one of ours. */
function fpm_beside(string $machine, string $root): Web
{
    if (posix_geteuid() !== 0) {
        throw new Skipped('only root can give a process another /var/lib');
    }
    exec('unshare -m true 2>/dev/null', $none, $status);
    if ($status !== 0) {
        throw new Skipped('this machine lets nobody give a process another /var/lib');
    }
    $prefix = ['unshare', '-m', 'sh', '-c', 'mount --bind "$0" /var/lib && exec "$@"', $machine];
    return new Web($root, [], 2, null, $prefix);
}

test('PHP under FPM finds the server of the machine, and says where it has looked if there is none', function (): void {
    $machine = folder();
    $root = folder();
    // Where nobody may read it.
    copy_all(PHP, "$root/php");
    file_put_contents("$root/page.php", '<?php require ' . var_export("$root/php/autoload.php", true) . '; try { $comet = new CometServer\Client(); $comet->publish("a", 1); echo "works"; }'
        . ' catch (CometServer\Exception\CometException $fault) { echo $fault->getMessage(); }');
    file_put_contents("$root/old.php", '<?php require ' . var_export("$root/php/drop-in/lib/CometAutoloader.class.php", true) . '; $comet = new CometWebInterface(array(), "a"); echo $comet->write("b");');
    copy(PHP . '/bridge.php', "$root/bridge.php");
    mkdir("$machine/cometserver", 0755);
    $web = fpm_beside($machine, $root);
    $said = $web->get('/page.php')['body'];
    foreach (['comet-config.php', '/var/lib/cometserver', '.local/state/cometserver', 'comet start'] as $part) {
        yes(strpos($said, $part) !== false, "$part in $said");
    }
    yes(strpos($web->get('/old.php')['body'], 'comet-config.php') !== false, $web->get('/old.php')['body']);
    same(503, $web->get('/bridge.php?call=/v1/now')['status']);
    $server = new Server(['--socket-mode', '0666'], "$machine/cometserver");
    same('works', $web->get('/page.php')['body']);
    same('', $web->get('/old.php')['body']);
    same(200, $web->get('/bridge.php?call=/v1/now')['status']);
    $server->stop();
});
