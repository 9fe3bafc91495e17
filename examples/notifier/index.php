<?php
/** The page that shows the messages. */

require_once __DIR__ . '/../../clients/php/drop-in/config/bootstrap.php';

// Without it the page would wait and say nothing.
$isRunning = Comet\Internal\Hub::shared()->isRunning();

header("Content-Security-Policy: default-src 'self'; img-src 'self' data:");
header('Cache-Control: no-store');
?>
<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Notifier</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="../shared/look.css">
    <link rel="stylesheet" href="notifier.css">
    <script src="notifier.js" defer></script>
    <?php Comet\Web\JsHelper::create()->renderJsTag('read.php', 'notify'); ?>

  </head>
  <body>
    <main>
      <h1>Notifier</h1>
      <p>This page shows every message the moment somebody writes it. Leave it open and write one in a second window.</p>
<?php if (!$isRunning) { ?>
      <p class="bad" role="alert">The server is not running, so nothing can arrive. Start it as the README says, then reload this page.</p>
<?php } ?>
      <div class="card">
        <p><a class="button" href="write.php" target="_blank">Write a message</a></p>
        <p class="quiet">A notification stays for eight seconds, longer while you point at it. <kbd>F8</kbd> leads to the newest,
          <kbd>Esc</kbd> dismisses it.</p>
        <p class="quiet">The same page without PHP: <a href="plain.html">plain.html</a>. Both show the same messages.</p>
      </div>
      <noscript><p class="bad">Messages are shown by a script, and scripts are switched off here.</p></noscript>
    </main>
    <!-- With the attribute data-html the messages are HTML: for those that nobody but your own code writes. -->
    <section class="jGrowl" aria-label="Notifications"></section>
  </body>
</html>
