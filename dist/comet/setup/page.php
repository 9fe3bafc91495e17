<?php
// The page of setup.php, which includes it with $stage, $claim and $this.
if (!isset($stage)) {
    http_response_code(404);
    exit;
}
?><!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Set up CometServer</title>
<link rel="icon" href="setup/icon.svg">
<link rel="stylesheet" href="setup/setup.css">
</head>
<body>
<main data-stage="<?php echo $stage; ?>">
  <header>
    <div class="brand"><img src="setup/icon.svg" alt="" width="24" height="24">CometServer</div>
<?php if ($stage === 'locked') { ?>
    <h1>This site is set up</h1>
    <p class="lead">The page is locked. To set up again, or to see the lines to paste once more, delete <code>setup-state.php</code> from the folder <code>comet</code> by FTP, and load this page.</p>
  </header>
<?php } elseif ($stage === 'taken') { ?>
    <h1>Another browser is setting up</h1>
    <p class="lead">If that is not you: delete <code>setup-state.php</code> from the folder <code>comet</code> by FTP, and load this page again. It then asks anew whose site this is.</p>
  </header>
<?php } else { ?>
    <h1>Live updates for your site, in about a minute</h1>
    <p class="lead">This page starts a small server under your own account, finds the best way to your visitors that this host allows, and ends with a few lines to paste.</p>
  </header>

  <section class="card" id="claim" <?php echo $stage === 'claim' ? '' : 'hidden'; ?>>
    <div class="head"><h2>Show that the site is yours</h2><span class="count">Step 1 of 4</span></div>
    <p>Put an empty file with this name beside <code>setup.php</code>, by FTP, as you uploaded the rest. A stranger who finds this page cannot.</p>
    <div class="file"><code id="claim-file"><?php echo $claim; ?></code><button class="copy" type="button" data-copy="claim-file">Copy</button></div>
    <div class="row"><button type="button" id="claimed">I have put it there</button><span class="soft" id="claim-told" role="status"></span></div>
  </section>

  <section class="card waiting" id="host">
    <div class="head"><h2>This host</h2><span class="count">Step 2 of 4</span></div>
    <p class="soft" data-before>Repairs what the upload lost, makes a folder that no browser can look into, and starts the server.</p>
    <ul class="checks" aria-live="polite"></ul>
  </section>

  <section class="card waiting" id="ways">
    <div class="head"><h2>The way to your visitors</h2><span class="count">Step 3 of 4</span></div>
    <p class="soft" data-before>Tries each way that a host may allow, from here, as a visitor would. The best one is taken.</p>
    <ul class="checks" aria-live="polite"></ul>
  </section>

  <section class="card waiting" id="message">
    <div class="head"><h2>A message arrives</h2><span class="count">Step 4 of 4</span></div>
    <p class="soft" data-before>Sent by the PHP of your site, shown by your browser.</p>
    <ul class="inbox" hidden aria-live="polite"></ul>
    <div class="row" hidden><button type="button" id="send" class="quiet">Send another</button><button type="button" id="finish">Finish</button><span class="soft" id="message-told" role="status"></span></div>
    <p class="soft" data-finish hidden>“Finish” locks this page and shows the lines to paste, once: copy them then.</p>
  </section>

  <section class="card" id="done" hidden>
    <h2>Done. Paste this</h2>
    <div class="snippet"><div class="label">In your page<button class="copy" type="button" data-copy="for-page">Copy</button></div><pre id="for-page"></pre></div>
    <div class="snippet"><div class="label">In your PHP, whenever something happens<button class="copy" type="button" data-copy="for-php">Copy</button></div><pre id="for-php"></pre></div>
    <p class="soft">Channels that begin with <code>public/</code> are open to every visitor; for all others your PHP hands out tokens. This page is locked now: loaded again, it no longer shows these lines.</p>
  </section>
  <noscript><p class="alarm"><strong>JavaScript is off.</strong> This page needs it, as your live pages will.</p></noscript>
  <script src="setup/setup.js" type="module"></script>
<?php } ?>
  <footer>Nothing on this page comes from, or goes to, anywhere but this site.</footer>
</main>
</body>
</html>
