<?php
// Where the server is, for bridge.php beside this file. Yours to change: the folder.
return array(
    'data_dir' => '/var/lib/cometserver',

    // Only where PHP may connect to that folder's socket but not read its files: what public/comet.sock.key there holds.
    // 'gateway_key' => '…',

    // Only where nothing else starts the server: PHP does, if it is not running, with this program and configuration. It
    // then runs as PHP's user, who must be able to write to the folder above.
    // 'start' => true,
    // 'binary' => '/usr/local/bin/comet',
    // 'config' => '/etc/cometserver/comet.toml',
);
