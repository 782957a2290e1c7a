// Pause holds a pod's namespaces open: it waits for a signal to stop and reaps what is orphaned to it.
//
// Its own program, because there is one in every pod: the multi-call binary would cost each of them 40 MB.
package main

import (
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
)

func main() {
	// Nothing here allocates or runs in parallel: one processor and no collector keep the resident set at a few pages.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		// One SIGCHLD may stand for several children; with none left Wait4 says ECHILD, with none dead 0.
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}
