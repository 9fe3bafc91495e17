<?php

declare(strict_types=1);

namespace CometServer\Exception;

/** What answered is not a CometServer, or none of this version. */
final class BadAnswer extends CometException
{
}
