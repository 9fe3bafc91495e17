<?php
// Where the server is, for bridge.php beside this file. Yours to change: the folder.
return array(
    'data_dir' => '/var/lib/cometserver',
    // Start the server if it is not running, with this configuration. Only where nothing else does: it then runs as
    // PHP's user, who must be able to write to the data folder.
    // 'start' => true,
    // 'config' => '/etc/cometserver/comet.toml',
);
