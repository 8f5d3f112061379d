package engine

// waker publishes a step's tokens and wakes their readers beside the loop. Each costs the loop a trip to a line of memory that a reader's core
// holds, and a wake may be a call into the kernel; a step has hundreds of them. The loop gathers them and hands them over together.
//
// Of three lists the loop fills one, at most one waits, and at most one is being worked through; so that there is a free one once a list
// could be handed over. The waker itself never waits for a reader.
type waker struct {
	list  []news        // of this step; the loop's
	lists chan []news   // one slot
	free  chan []news   // two slots; full: all that was handed over is done
	ended chan struct{} // nil: not running, and the loop does all of it
}

// news is how many tokens of a stream its reader may see.
type news struct {
	stream *Stream
	tokens int
}

// wakeAlone is how many the loop wakes itself: handing over costs one wake too.
const wakeAlone = 3

func newWaker(maxStreams int) *waker {
	w := &waker{list: make([]news, 0, maxStreams), lists: make(chan []news, 1), free: make(chan []news, 2)}
	for range cap(w.free) {
		w.free <- make([]news, 0, maxStreams)
	}
	return w
}

// start and stop are called by Run; what was handed over is published before stop returns.
func (w *waker) start() {
	w.ended = make(chan struct{})
	go func() {
		defer close(w.ended)
		for list := range w.lists {
			publishAll(list)
			w.free <- list[:0]
		}
	}()
}

func (w *waker) stop() {
	close(w.lists)
	<-w.ended
	w.ended = nil
}

// add notes that the reader may see what was put on s.
func (w *waker) add(s *Stream) { w.list = append(w.list, news{s, s.written}) }

// flush publishes all that was added, never before what was added earlier.
func (w *waker) flush() {
	few := len(w.list) <= wakeAlone && len(w.free) == cap(w.free)
	if w.ended == nil || few {
		publishAll(w.list)
		w.list = w.list[:0]
		return
	}
	w.lists <- w.list
	w.list = <-w.free
}

func publishAll(list []news) {
	for i := range list {
		list[i].stream.publish(list[i].tokens)
		list[i].stream = nil
	}
}
