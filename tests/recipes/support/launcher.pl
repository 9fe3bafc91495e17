# What systemd does for socket activation, and no more: holds listening sockets, and starts a command with them.
#
# launcher.pl NAME MODE PATH [NAME MODE PATH ...] -- COMMAND...
# It reads lines: "start" starts the command, "stop" ends it with SIGTERM and waits. End of input ends both.
use strict;
use warnings;
use Fcntl;
use POSIX ();
use Socket;

my (@names, @sockets, @paths);
while ((my $name = shift @ARGV) ne '--') {
    my ($mode, $path) = splice @ARGV, 0, 2;
    socket my $socket, AF_UNIX, SOCK_STREAM, 0 or die "socket: $!";
    bind $socket, pack_sockaddr_un($path) or die "$path: $!";
    chmod oct $mode, $path or die "$path: $!";
    listen $socket, 4096 or die "listen: $!";
    push @names, $name;
    push @sockets, $socket;
    push @paths, $path;
}
my $pid = 0;
$| = 1;
print "listening\n";
while (my $line = <STDIN>) {
    if ($line eq "start\n") { start() }
    if ($line eq "stop\n") { stop() }
    print "done\n";
}
stop();
unlink @paths;

sub start {
    $pid = fork // die "fork: $!";
    return if $pid;
    # Where they are wanted, other descriptors may be in the way.
    my @high = map { fcntl($_, F_DUPFD, 100) // die "dup: $!" } @sockets;
    for my $i (0 .. $#high) {
        POSIX::dup2($high[$i], 3 + $i) // die "dup2: $!";
        POSIX::close($high[$i]);
    }
    @ENV{qw(LISTEN_PID LISTEN_FDS LISTEN_FDNAMES)} = ($$, scalar @high, join ':', @names);
    open STDIN, '<', '/dev/null';
    open STDOUT, '>&', \*STDERR;
    exec @ARGV or die "$ARGV[0]: $!";
}

sub stop {
    return unless $pid;
    kill 'TERM', $pid;
    waitpid $pid, 0;
    $pid = 0;
}
