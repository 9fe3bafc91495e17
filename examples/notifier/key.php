<?php
/** The key of the messages, for read.php and write.php: one list of them for each user, say by the address. */

return array('anna@example.org');
