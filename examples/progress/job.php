<?php
/**
 * A long job that tells how far it is: `php job.php [STEPS] [MILLISECONDS PER STEP]`, or started by the button of the page.
 *
 * What it tells is retained, so that a page which is opened or reloaded in the middle begins there. A push server that is
 * away costs the job a moment, never its work: tryPublish() does not throw.
 */

declare(strict_types=1);

require __DIR__ . '/../../clients/php/autoload.php';

const CHANNEL = 'progress/export';

/** What takes long. */
function work(int $milliseconds): void
{
    usleep($milliseconds * 1000);
}

function refuse(int $status, string $why): void
{
    if (PHP_SAPI === 'cli') {
        fwrite(STDERR, "$why\n");
        exit(1);
    }
    http_response_code($status);
    header('Content-Type: text/plain; charset=utf-8');
    exit("$why\n");
}

$steps = 40;
$pace = 250;
if (PHP_SAPI === 'cli') {
    $steps = max(1, (int) ($argv[1] ?? $steps));
    $pace = max(0, (int) ($argv[2] ?? $pace));
} elseif ($_SERVER['REQUEST_METHOD'] !== 'POST' || ($_SERVER['HTTP_X_START_JOB'] ?? '') !== '1') {
    // Other sites' pages cannot set a header of their own.
    refuse(403, 'The job is started by the button of the page.');
}

// One at a time; the lock goes with the process, however it ends.
$lock = fopen(__FILE__, 'r');
if (!$lock || !flock($lock, LOCK_EX | LOCK_NB)) {
    refuse(409, 'The job is running already.');
}
// It goes on when the tab that started it is closed.
ignore_user_abort(true);
set_time_limit(0);

$comet = new CometServer\Client();
$job = bin2hex(random_bytes(8));
$done = 0;
$tell = static function (string $state) use ($comet, $job, &$done, $steps): void {
    $comet->tryPublish(CHANNEL, ['job' => $job, 'state' => $state, 'done' => $done, 'total' => $steps], ['retain' => true]);
};
// A fault of PHP ends the job, but not without a word.
register_shutdown_function(static function () use ($tell, &$done, $steps): void {
    if ($done < $steps) {
        $tell('failed');
    }
});

$tell('running');
if (function_exists('fastcgi_finish_request')) {
    // Under FPM the button need not wait for the end.
    fastcgi_finish_request();
}
while ($done < $steps) {
    work($pace);
    $done++;
    $tell($done < $steps ? 'running' : 'done');
}
