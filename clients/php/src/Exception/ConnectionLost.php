<?php

declare(strict_types=1);

namespace CometServer\Exception;

/** The connection ended before the answer: the request may or may not have been carried out. */
final class ConnectionLost extends CometException
{
}
