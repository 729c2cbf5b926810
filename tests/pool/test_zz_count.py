import collections, atexit
from tests.pool import limited, machine
from tests.pool.test_limits import *
from tests.pool.conftest import *
C=collections.Counter()
real=limited.LimitedHistories.lift
def lift(self,message,*,strict):
    C[message.split("'")[0]+" :: "+("refquota" if "refquota of" in message else "quota" if "quota of" in message else "reserved")]+=1
    return real(self,message,strict=strict)
limited.LimitedHistories.lift=lift
atexit.register(lambda: print(C))
