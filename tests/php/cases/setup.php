<?php
/** The page that sets up: where it puts data and secrets in accounts of many shapes. */

declare(strict_types=1);

require __DIR__ . '/../lib.php';

/** An account whose document root is `$root` within a folder of ours, with what was uploaded into it. */
function uploaded(string $root): array
{
    $account = folder();
    $comet = "$account/$root/comet";
    mkdir("$comet/bin", 0755, true);
    exec('cp -R ' . escapeshellarg(ROOT . '/dist/comet') . '/. ' . escapeshellarg($comet));
    copy(ROOT . '/clients/php/start.php', "$comet/php/start.php");
    symlink(realpath(Server::binary()), "$comet/bin/comet");
    chmod("$comet/cgi/push.cgi", 0755);
    return [$account, "$account/$root"];
}

/** What a step of the page answers to its owner, in the folder that PHP takes for its home. */
function step(string $root, string $home, string $name): array
{
    $cookie = str_repeat('a', 40);
    if (!is_file("$root/comet/setup-state.php")) {
        file_put_contents("$root/comet/setup-state.php", '<?php exit; // ' . json_encode(['owner' => hash('sha256', $cookie)]));
    }
    $web = new CliServer($root, ['HOME' => $home]);
    $answer = $web->post('/comet/setup.php', "do=$name", ['Cookie' => "comet_setup=$cookie", 'X-Comet-Setup' => '1']);
    $web->process->end();
    $value = json_decode($answer['body'], true);
    yes(is_array($value) && !isset($value['error']), shown($answer));
    return $value;
}

/** Where the data folder is, once the host was looked at. */
function data(string $root, string $home): string
{
    step($root, $home, 'prepare');
    preg_match('~\{.*\}~', file_get_contents("$root/comet/setup-state.php"), $match);
    $data = json_decode($match[0], true)['data'];
    same(0700, fileperms($data) & 0777);
    same(file_get_contents(ROOT . '/dist/comet/bin/.htaccess'), file_get_contents("$data/.htaccess"), 'closed wherever it is');
    same('', file_get_contents("$data/index.html"));
    yes((bool) preg_match('~/(comet-data|data)-[0-9a-f]{16}$~D', $data), "a name that nobody guesses: $data");
    return $data;
}

test('the home comes first, then the folder above the document root', function (): void {
    [$account, $root] = uploaded('sites/one/public_html');
    same($account, dirname(data($root, $account)));
    [$account, $root] = uploaded('sites/one/public_html');
    same("$account/sites/one", dirname(data($root, '/')));
});

test("nothing is put into another site's document root", function (): void {
    foreach (['public_html', 'htdocs', 'httpdocs', 'www', 'html', 'web', 'Public_HTML'] as $name) {
        [$account, $root] = uploaded("$name/sites/b");
        same("$root/comet", dirname(data($root, "$account/$name")), $name);
    }
    [$account, $root] = uploaded('public_html/b');
    same("$root/comet", dirname(data($root, '/')), 'where there is no home');
    foreach (['index.html', 'index.php', '.htaccess'] as $name) {
        [$account, $root] = uploaded('main/sites/b');
        file_put_contents("$account/main/$name", '');
        same("$root/comet", dirname(data($root, "$account/main")), $name);
    }
});

test('who sets up again finds the data again, but a copy of the site makes its own', function (): void {
    [$account, $root] = uploaded('public_html');
    $data = data($root, $account);
    same(true, step($root, $account, 'start')['running']);
    comet('stop', '--data-dir', $data);
    exec('cp -R ' . escapeshellarg($root) . ' ' . escapeshellarg("$account/copy"));
    foreach ([$root, "$account/copy"] as $site) {
        unlink("$site/comet/setup-state.php");
    }
    $key = file_get_contents("$data/tokens.key");
    same($data, data($root, $account));
    same($key, file_get_contents("$data/tokens.key"));
    yes(data("$account/copy", $account) !== $data, 'its own');
});

test('an upload without hidden files is told so, and gets no folder', function (): void {
    [$account, $root] = uploaded('public_html');
    unlink("$root/comet/bin/.htaccess");
    $error = throws(Failed::class, fn () => step($root, $account, 'prepare'))->getMessage();
    yes(strpos($error, 'hidden files') !== false, $error);
    same([], glob("$account/comet-data*"));
});
