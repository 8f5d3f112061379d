package jinja

import (
	"fmt"
	"strings"
	"time"
)

// strftimeLayouts are the directives that Go has a layout for, in the C locale.
var strftimeLayouts = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'h': "Jan", 'd': "02", 'e': "_2", 'm': "01", 'y': "06", 'Y': "2006",
	'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'j': "002", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06",
	'x': "01/02/06", 'X': "15:04:05", 'c': "Mon Jan _2 15:04:05 2006",
}

// maxStrftime bounds a format, and with it its result: no directive makes more than 24 bytes.
const maxStrftime = 1 << 10

// strftime formats a time as C does, in the C locale. %- takes the zero in front of a number away.
func strftime(t time.Time, format string) (string, error) {
	if len(format) > maxStrftime {
		return "", fmt.Errorf("strftime_now: format of %d bytes, want at most %d", len(format), maxStrftime)
	}
	var out strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			out.WriteByte(format[i])
			continue
		}
		i++
		bare := format[i] == '-' && i+1 < len(format)
		if bare {
			i++
		}
		text, ok := directive(t, format[i])
		if !ok {
			return "", fmt.Errorf("strftime_now: the directive %%%c is not supported", format[i])
		}
		if bare {
			if text = strings.TrimLeft(text, "0 "); text == "" {
				text = "0"
			}
		}
		out.WriteString(text)
	}
	return out.String(), nil
}

func directive(t time.Time, c byte) (string, bool) {
	if layout, ok := strftimeLayouts[c]; ok {
		return t.Format(layout), true
	}
	switch c {
	case '%':
		return "%", true
	case 'n':
		return "\n", true
	case 't':
		return "\t", true
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000), true
	case 's':
		return fmt.Sprint(t.Unix()), true
	case 'u': // 1 for Monday to 7
		return fmt.Sprint((int(t.Weekday())+6)%7 + 1), true
	case 'w': // 0 for Sunday to 6
		return fmt.Sprint(int(t.Weekday())), true
	case 'G':
		year, _ := t.ISOWeek()
		return fmt.Sprintf("%04d", year), true
	case 'V':
		_, week := t.ISOWeek()
		return fmt.Sprintf("%02d", week), true
	case 'U': // weeks that start on Sundays
		return fmt.Sprintf("%02d", (t.YearDay()+6-int(t.Weekday()))/7), true
	case 'W': // weeks that start on Mondays
		return fmt.Sprintf("%02d", (t.YearDay()+6-(int(t.Weekday())+6)%7)/7), true
	case 'z', 'Z': // as of a time of Python that does not know its zone
		return "", true
	}
	return "", false
}
