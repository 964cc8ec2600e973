package scsi

// Operation codes (SPC-4, SBC-3).
const (
	opTestUnitReady      = 0x00
	opRequestSense       = 0x03
	opRead6              = 0x08
	opWrite6             = 0x0a
	opInquiry            = 0x12
	opModeSelect6        = 0x15
	opReserve6           = 0x16
	opRelease6           = 0x17
	opModeSense6         = 0x1a
	opStartStopUnit      = 0x1b
	opPreventAllow       = 0x1e
	opReadCapacity10     = 0x25
	opRead10             = 0x28
	opWrite10            = 0x2a
	opWriteVerify10      = 0x2e
	opVerify10           = 0x2f
	opPrefetch10         = 0x34
	opSynchronizeCache10 = 0x35
	opReadDefectData10   = 0x37
	opWriteSame10        = 0x41
	opUnmap              = 0x42
	opSanitize           = 0x48
	opModeSelect10       = 0x55
	opReserve10          = 0x56
	opRelease10          = 0x57
	opModeSense10        = 0x5a
	opPersistentIn       = 0x5e
	opPersistentOut      = 0x5f
	opExtendedCopy       = 0x83
	opReceiveCopy        = 0x84
	opRead16             = 0x88
	opCompareAndWrite    = 0x89
	opWrite16            = 0x8a
	opOrWrite16          = 0x8b
	opWriteVerify16      = 0x8e
	opVerify16           = 0x8f
	opPrefetch16         = 0x90
	opSynchronizeCache16 = 0x91
	opWriteSame16        = 0x93
	opServiceActionIn16  = 0x9e
	opReportLUNs         = 0xa0
	opMaintenanceIn      = 0xa3
	opRead12             = 0xa8
	opWrite12            = 0xaa
	opWriteVerify12      = 0xae
	opVerify12           = 0xaf
	opReadDefectData12   = 0xb7
)

// Service actions.
const (
	saReadCapacity16    = 0x10
	saGetLBAStatus      = 0x12
	saReportPortGroups  = 0x0a
	saReportOpcodes     = 0x0c
	saReportTaskFuncs   = 0x0d
	saOverwrite         = 0x01
	saBlockErase        = 0x02
	saExitFailure       = 0x1f
	saCopyList1         = 0x00
	saCopyStatus        = 0x00
	saCopyParameters    = 0x03
	saReadKeys          = 0x00
	saReadReservation   = 0x01
	saReportCapability  = 0x02
	saReadFullStatus    = 0x03
	saRegister          = 0x00
	saReserve           = 0x01
	saRelease           = 0x02
	saClear             = 0x03
	saPreempt           = 0x04
	saPreemptAndAbort   = 0x05
	saRegisterAndIgnore = 0x06
	saRegisterAndMove   = 0x07
)

// Status is the outcome of a command (SAM-5).
type Status byte

// Status codes.
const (
	Good                Status = 0x00
	CheckCondition      Status = 0x02
	Busy                Status = 0x08
	ReservationConflict Status = 0x18
	TaskSetFull         Status = 0x28
	TaskAborted         Status = 0x40
)

// Key is a sense key: the kind of trouble.
type Key byte

// Sense keys.
const (
	NoSense        Key = 0x0
	NotReady       Key = 0x2
	MediumError    Key = 0x3
	HardwareError  Key = 0x4
	IllegalRequest Key = 0x5
	UnitAttention  Key = 0x6
	DataProtect    Key = 0x7
	CopyAborted    Key = 0xa
	AbortedCommand Key = 0xb
	Miscompare     Key = 0xe
)

// Code is an additional sense code and its qualifier.
type Code uint16

// Additional sense codes.
const (
	NoAdditionalSense       Code = 0x0000
	OperationInProgress     Code = 0x0016
	NotReadyStandby         Code = 0x040b
	NotReadyUnavailable     Code = 0x040c
	NotReadyTransition      Code = 0x040a
	NotReadySanitize        Code = 0x041b
	UnreachableCopyUnit     Code = 0x0804
	WriteError              Code = 0x0c00
	CopyUnitUnreachable     Code = 0x0d02
	InvalidFieldInIU        Code = 0x0e03
	UnrecoveredReadError    Code = 0x1100
	ParameterListLength     Code = 0x1a00
	MiscompareDuringVerify  Code = 0x1d00
	InvalidOpcode           Code = 0x2000
	LBAOutOfRange           Code = 0x2100
	InvalidFieldInCDB       Code = 0x2400
	UnitNotSupported        Code = 0x2500
	InvalidFieldInParameter Code = 0x2600
	InvalidRelease          Code = 0x2604
	TooManyCopyUnits        Code = 0x2606
	UnsupportedCopyUnit     Code = 0x2607
	TooManySegments         Code = 0x2608
	UnsupportedSegment      Code = 0x2609
	InlineDataLength        Code = 0x260b
	WriteProtected          Code = 0x2700
	SoftwareWriteProtected  Code = 0x2702
	SpaceAllocationFailed   Code = 0x2707
	PowerOnReset            Code = 0x2900
	DeviceReset             Code = 0x2903
	NexusLoss               Code = 0x2907
	ModeParametersChanged   Code = 0x2a01
	ReservationsPreempted   Code = 0x2a03
	ReservationsReleased    Code = 0x2a04
	RegistrationsPreempted  Code = 0x2a05
	AccessStateChanged      Code = 0x2a06
	CapacityChanged         Code = 0x2a09
	CommandsCleared         Code = 0x2f00
	SanitizeFailed          Code = 0x3103
	MediumNotPresent        Code = 0x3a00
	RemovalPrevented        Code = 0x5302
	MediumChanged           Code = 0x2800 // it was loaded
	SavingNotSupported      Code = 0x3900
	LUNsChanged             Code = 0x3f0e
	InternalTargetFailure   Code = 0x4400
	OutOfRegistrations      Code = 0x5504
)
