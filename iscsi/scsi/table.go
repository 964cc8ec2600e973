package scsi

import "github.com/opencurve/curve-nbd/backend"

const (
	protect = 0xe0 // RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT: no protection information here
	dpoFUA  = 0x18
	dpo     = 0x10
)

// Seconds that a command may take: IO waits for a copyset to elect a leader,
// the rest is at hand.
const (
	quick  = 10
	waitIO = 60
	long   = 300
	day    = 24 * 60 * 60
)

func rw(name string, code byte, size int, o operation) operation {
	o.name, o.code, o.action, o.size = name, code, noAction, size
	o.ready, o.seconds = true, waitIO
	return o
}

func reads(name string, code byte, size int, flags, refuse byte) operation {
	return rw(name, code, size, operation{mask: spanMask(size, flags), refuse: bitsAt(1, refuse), kind: backend.OpRead,
		plain: true, access: accessRead, lock: lockShared, decode: decodeRead, execute: executeRead})
}

func writes(name string, code byte, size int, flags, refuse byte) operation {
	return rw(name, code, size, operation{mask: spanMask(size, flags), refuse: bitsAt(1, refuse), kind: backend.OpWrite,
		plain: true, partial: true, access: accessWrite, lock: lockShared, decode: decodeWrite, execute: executeWrite})
}

func writeVerifies(name string, code byte, size int) operation {
	return rw(name, code, size, operation{mask: spanMask(size, dpo|0x06), refuse: bitsAt(1, protect), kind: backend.OpWrite,
		partial: true, access: accessWrite, lock: lockExclusive, decode: decodeWriteVerify, execute: executeWriteVerify})
}

func verifies(name string, code byte, size int) operation {
	return rw(name, code, size, operation{mask: spanMask(size, dpo|0x06), refuse: bitsAt(1, protect), kind: backend.OpRead,
		access: accessRead, lock: lockShared, decode: decodeVerify, execute: executeVerify})
}

func prefetches(name string, code byte, size int) operation {
	return rw(name, code, size, operation{mask: spanMask(size, 0x02), access: accessRead, decode: decodeRange, execute: executeNothing})
}

func synchronizes(name string, code byte, size int) operation {
	return rw(name, code, size, operation{mask: spanMask(size, 0x02), kind: backend.OpFlush,
		access: accessWrite, decode: decodeRange, execute: executeFlush})
}

// simple operations have no span.
func simple(name string, code byte, action, size int, mask [16]byte, o operation) operation {
	o.name, o.code, o.action, o.size, o.mask, o.seconds = name, code, action, size, mask, max(o.seconds, quick)
	if action != noAction {
		o.mask[1] |= 0x1f
	}
	return o
}

func persistIn(name string, action int, answer step) operation {
	return simple(name, opPersistentIn, action, 10, bitsAt(7, 0xff, 8, 0xff),
		operation{access: accessPersist, decode: decodeAllocation16(7), execute: apart(upToDate(answer))})
}

func persistOut(name string, action int) operation {
	return simple(name, opPersistentOut, action, 10, bitsAt(2, 0xff, 5, 0xff, 6, 0xff, 7, 0xff, 8, 0xff),
		operation{access: accessPersist, decode: decodePersistOut, execute: apart(executePersistOut)})
}

func receives(name string, action int, answer step) operation {
	return simple(name, opReceiveCopy, action, 16, bitsAt(2, 0xff, 10, 0xff, 11, 0xff, 12, 0xff, 13, 0xff),
		operation{access: accessRegistered, decode: decodeAllocation32(10), execute: answer})
}

func sanitizes(name string, action int, flags byte, decode decoder, execute step) operation {
	return simple(name, opSanitize, action, 10, bitsAt(1, sanitizeImmediate|flags, 7, 0xff, 8, 0xff),
		operation{refuse: bitsAt(1, sanitizeZoned, 2, 0xff, 3, 0xff, 4, 0xff, 5, 0xff, 6, 0xff), access: accessWrite, ready: true,
			seconds: day, decode: decode, execute: execute})
}

func maintenanceIn(name string, action int, mask [16]byte, o operation) operation {
	for i := 6; i < 10; i++ {
		mask[i] = 0xff
	}
	o.decode, o.calm = decodeAllocation32(6), true
	return simple(name, opMaintenanceIn, action, 12, mask, o)
}

var table = []operation{
	simple("TEST UNIT READY", opTestUnitReady, noAction, 6, bitsAt(), operation{access: accessOther, ready: true, execute: executeNothing}),
	simple("REQUEST SENSE", opRequestSense, noAction, 6, bitsAt(1, 1, 4, 0xff),
		operation{quiet: true, decode: decodeAllocation8(4), execute: executeRequestSense}),
	simple("INQUIRY", opInquiry, noAction, 6, bitsAt(1, 1, 2, 0xff, 3, 0xff, 4, 0xff),
		operation{refuse: bitsAt(1, 2), quiet: true, decode: decodeInquiry, execute: executeInquiry}),
	simple("MODE SELECT(6)", opModeSelect6, noAction, 6, bitsAt(1, 0x11, 4, 0xff),
		operation{access: accessRegistered, decode: decodeModeSelect, execute: executeModeSelect}),
	simple("MODE SENSE(6)", opModeSense6, noAction, 6, bitsAt(1, 8, 2, 0xff, 3, 0xff, 4, 0xff),
		operation{access: accessRead, decode: decodeModeSense, execute: executeModeSense}),
	simple("MODE SELECT(10)", opModeSelect10, noAction, 10, bitsAt(1, 0x11, 7, 0xff, 8, 0xff),
		operation{access: accessRegistered, decode: decodeModeSelect, execute: executeModeSelect}),
	simple("MODE SENSE(10)", opModeSense10, noAction, 10, bitsAt(1, 0x18, 2, 0xff, 3, 0xff, 7, 0xff, 8, 0xff),
		operation{access: accessRead, decode: decodeModeSense, execute: executeModeSense}),
	simple("RESERVE(6)", opReserve6, noAction, 6, bitsAt(),
		operation{refuse: bitsAt(1, 0x1f), access: accessReserve, execute: executeReserve}),
	simple("RELEASE(6)", opRelease6, noAction, 6, bitsAt(),
		operation{refuse: bitsAt(1, 0x1f), access: accessRelease, execute: executeRelease}),
	simple("RESERVE(10)", opReserve10, noAction, 10, bitsAt(),
		operation{refuse: bitsAt(1, 0x1f), access: accessReserve, execute: executeReserve}),
	simple("RELEASE(10)", opRelease10, noAction, 10, bitsAt(),
		operation{refuse: bitsAt(1, 0x1f), access: accessRelease, execute: executeRelease}),
	simple("START STOP UNIT", opStartStopUnit, noAction, 6, bitsAt(1, 1, 4, 0xf7),
		operation{accessOf: startStopAccess, ready: true, empty: true, kind: backend.OpFlush, decode: decodeStartStop, execute: executeStartStop}),
	simple("PREVENT ALLOW MEDIUM REMOVAL", opPreventAllow, noAction, 6, bitsAt(4, 3),
		operation{accessOf: preventAccess, execute: executePrevent}),

	reads("READ(6)", opRead6, 6, 0x1f, 0),
	reads("READ(10)", opRead10, 10, dpoFUA, protect),
	reads("READ(12)", opRead12, 12, dpoFUA, protect),
	reads("READ(16)", opRead16, 16, dpoFUA, protect),
	writes("WRITE(6)", opWrite6, 6, 0x1f, 0),
	writes("WRITE(10)", opWrite10, 10, dpoFUA, protect),
	writes("WRITE(12)", opWrite12, 12, dpoFUA, protect),
	writes("WRITE(16)", opWrite16, 16, dpoFUA, protect),
	writeVerifies("WRITE AND VERIFY(10)", opWriteVerify10, 10),
	writeVerifies("WRITE AND VERIFY(12)", opWriteVerify12, 12),
	writeVerifies("WRITE AND VERIFY(16)", opWriteVerify16, 16),
	verifies("VERIFY(10)", opVerify10, 10),
	verifies("VERIFY(12)", opVerify12, 12),
	verifies("VERIFY(16)", opVerify16, 16),
	prefetches("PRE-FETCH(10)", opPrefetch10, 10),
	prefetches("PRE-FETCH(16)", opPrefetch16, 16),
	synchronizes("SYNCHRONIZE CACHE(10)", opSynchronizeCache10, 10),
	synchronizes("SYNCHRONIZE CACHE(16)", opSynchronizeCache16, 16),

	rw("COMPARE AND WRITE", opCompareAndWrite, 16, operation{
		mask: bitsAt(1, dpoFUA, 2, 0xff, 3, 0xff, 4, 0xff, 5, 0xff, 6, 0xff, 7, 0xff, 8, 0xff, 9, 0xff, 13, 0xff), refuse: bitsAt(1, protect),
		kind: backend.OpWrite, access: accessWrite, lock: lockExclusive, decode: decodeCompareAndWrite, execute: withScratch(compareRead)}),
	rw("ORWRITE(16)", opOrWrite16, 16, operation{mask: spanMask(16, dpoFUA), refuse: bitsAt(1, protect), kind: backend.OpWrite,
		access: accessWrite, lock: lockExclusive, decode: decodeWrite, execute: withScratch(orRead)}),
	rw("WRITE SAME(10)", opWriteSame10, 10, operation{mask: spanMask(10, 0x08), refuse: bitsAt(1, protect|0x16), kind: backend.OpWrite,
		access: accessWrite, lock: lockShared, decode: decodeWriteSame, execute: executeWriteSame}),
	rw("WRITE SAME(16)", opWriteSame16, 16, operation{mask: spanMask(16, 0x09), refuse: bitsAt(1, protect|0x16), kind: backend.OpWrite,
		access: accessWrite, lock: lockShared, decode: decodeWriteSame, execute: executeWriteSame}),
	rw("UNMAP", opUnmap, 10, operation{mask: bitsAt(7, 0xff, 8, 0xff), refuse: bitsAt(1, 1), kind: backend.OpTrim,
		access: accessWrite, decode: decodeUnmap, execute: executeUnmap}),

	sanitizes("SANITIZE: OVERWRITE", saOverwrite, sanitizeExit, decodeOverwrite, executeOverwrite),
	sanitizes("SANITIZE: BLOCK ERASE", saBlockErase, sanitizeExit, decodeErase, executeErase),
	sanitizes("SANITIZE: EXIT FAILURE MODE", saExitFailure, 0, decodeErase, apart(executeExitFailure)),

	simple("EXTENDED COPY(LID1)", opExtendedCopy, saCopyList1, 16, bitsAt(10, 0xff, 11, 0xff, 12, 0xff, 13, 0xff),
		operation{access: accessWrite, ready: true, seconds: long, decode: decodeExtendedCopy, execute: executeExtendedCopy}),
	receives("RECEIVE COPY STATUS(LID1)", saCopyStatus, executeCopyStatus),
	receives("RECEIVE COPY OPERATING PARAMETERS", saCopyParameters, executeCopyParameters),

	// The size is known in standby too, and initiators do without the path otherwise.
	simple("READ CAPACITY(10)", opReadCapacity10, noAction, 10, bitsAt(), operation{full: true,
		decode: decodeReadCapacity10, execute: executeReadCapacity10}),
	simple("READ CAPACITY(16)", opServiceActionIn16, saReadCapacity16, 16, bitsAt(10, 0xff, 11, 0xff, 12, 0xff, 13, 0xff),
		operation{full: true, decode: decodeAllocation32(10), execute: executeReadCapacity16}),
	simple("GET LBA STATUS", opServiceActionIn16, saGetLBAStatus, 16,
		bitsAt(2, 0xff, 3, 0xff, 4, 0xff, 5, 0xff, 6, 0xff, 7, 0xff, 8, 0xff, 9, 0xff, 10, 0xff, 11, 0xff, 12, 0xff, 13, 0xff),
		operation{access: accessRead, ready: true, decode: decodeLBAStatus, execute: apart(executeLBAStatus)}),
	simple("READ DEFECT DATA(10)", opReadDefectData10, noAction, 10, bitsAt(2, 0x1f, 7, 0xff, 8, 0xff),
		operation{access: accessRead, ready: true, decode: decodeAllocation16(7), execute: executeDefects}),
	simple("READ DEFECT DATA(12)", opReadDefectData12, noAction, 12, bitsAt(1, 0x1f, 6, 0xff, 7, 0xff, 8, 0xff, 9, 0xff),
		operation{access: accessRead, ready: true, decode: decodeAllocation32(6), execute: executeDefects}),
	simple("REPORT LUNS", opReportLUNs, noAction, 12, bitsAt(2, 0xff, 6, 0xff, 7, 0xff, 8, 0xff, 9, 0xff),
		operation{quiet: true, decode: decodeReportLUNs, execute: executeReportLUNs}),

	maintenanceIn("REPORT TARGET PORT GROUPS", saReportPortGroups, bitsAt(1, 0xe0), operation{execute: executeReportGroups}),
	maintenanceIn("REPORT SUPPORTED OPERATION CODES", saReportOpcodes, bitsAt(2, 0x87, 3, 0xff, 4, 0xff, 5, 0xff),
		operation{access: accessRead, execute: executeReportOpcodes}),
	maintenanceIn("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", saReportTaskFuncs, bitsAt(2, 0x80),
		operation{access: accessRead, execute: executeReportTaskFunctions}),

	persistIn("PERSISTENT RESERVE IN: READ KEYS", saReadKeys, executeReadKeys),
	persistIn("PERSISTENT RESERVE IN: READ RESERVATION", saReadReservation, executeReadReservation),
	persistIn("PERSISTENT RESERVE IN: REPORT CAPABILITIES", saReportCapability, executeReportCapabilities),
	persistIn("PERSISTENT RESERVE IN: READ FULL STATUS", saReadFullStatus, executeReadFullStatus),
	persistOut("PERSISTENT RESERVE OUT: REGISTER", saRegister),
	persistOut("PERSISTENT RESERVE OUT: RESERVE", saReserve),
	persistOut("PERSISTENT RESERVE OUT: RELEASE", saRelease),
	persistOut("PERSISTENT RESERVE OUT: CLEAR", saClear),
	persistOut("PERSISTENT RESERVE OUT: PREEMPT", saPreempt),
	persistOut("PERSISTENT RESERVE OUT: PREEMPT AND ABORT", saPreemptAndAbort),
	persistOut("PERSISTENT RESERVE OUT: REGISTER AND IGNORE EXISTING KEY", saRegisterAndIgnore),
	persistOut("PERSISTENT RESERVE OUT: REGISTER AND MOVE", saRegisterAndMove),
}
