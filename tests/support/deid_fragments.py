"""Encoded frames of the corpus: the same 16×16 gradient in every transfer syntax that nothing installed encodes safely.

Pixel (x, y) is 8x + 4y; no encoder names itself in a comment. By transfer syntax UID: bits allocated (12 of 16, or 8,
are stored), and the frame in base 85.
"""

from __future__ import annotations

from base64 import b85decode

_ENCODED = {
    "1.2.840.10008.1.2.4.50": (
        8,
        "|JeWA07C!)0RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaL3zyJ#f01yBW0Ra&"
        "J|HJ?v000360RaI40RaF200000000330|W&I2M7rY3;)CbwGaRT0Rsa91Oo*H1Oxy80et}i0{{dO1ri}KK?W01VFw~{6f%L4p$H>FvB4"
        "Em(eNZQVse5B3Kka_85$)fCnzZ@G&MFiI5|2)L`6nNNJ&alR8>}2SXo+QWMyV&XlZJ5bai%jczJq*goTEOh>41lla!T~mzbHFqNAjxrl"
        "+W>s<N}RwYImoxw^u`#Kp$P$jQpm)6~`0*Vx(G;o{@u<>u$;>FV+F^Yr!h_xSnx|Jncu0RaF2KLGwy{{Uv+hTrkw{*V6vJimwO?O)Ib?"
        "A!3${yaa?{{ZKg@clij^Zx+$ZTM~f03ILc{{ZvL_<o+%{Q!Q=zYV|R!~Gxrd4CVn+Q0wV",
    ),
    "1.2.840.10008.1.2.4.51": (
        16,
        "|JeWA07C!)0RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaI40RaL3!2k;o01yBW0Ra&"
        "J|HJ?l0099200000000000000000|2J!~h%+000I900000000000000000#&pG(uBhasS!?2mt{A06zd!6KQP$zAE!VfD>tL0lq5pK>q"
        "+urL+e4tIY}kO{KI3_^Zti|Je",
    ),
    "1.2.840.10008.1.2.4.57": (
        16,
        "|JeV-01FTR5C9MX0TBTI!~hlm0RaI30000000000000001OpKN+5iXv0RRC20LVfRgdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))"
        "@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp"
        "8qB8Wl|gdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp8qBmda|",
    ),
    "1.2.840.10008.1.2.4.70": (
        16,
        "|JeV-01FTR5C9MX0TBTI!~hlm0RaI30000000000000001OpKN+5iXv0RRC20LVfRgdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))"
        "@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp"
        "8qB8Wl|gdqq*5QHL#LJ))@2tp8qB8Wl|gdqq*5QHL#LJ))@2tp8qBmda|",
    ),
    "1.2.840.10008.1.2.4.80": (
        16,
        "|JeWc01FTR5C9MX0TBTI_y7$7|Nj6I07C&306_oR00;pA00000pnMO3us#OCa7-Qx1K?~I1i|32A_PEa5(0rhpb!WM2nYxW2oV7R0t5&"
        "UAV7fv1PBlyGzbtNf(Rgj2q1z8AV?sB2q1z8Ac6=Wf&zjFAc7EtAqYYcfkF_3AqYYcgdqqNAqYYch=_=YfJ8(@L_|bHL;@lrA|fP`NC_"
        "m8NhFd$NhFd<DxfN=s;Yphs;clG|8O7wZ~*_=",
    ),
    "1.2.840.10008.1.2.4.81": (
        8,
        "|JeWc01F5J5C9MX0TBTI+5iXv0RR910EZo;wQ2p`ySpJ7Hqxr1690Xh|9U6?eZT*0|9@})a)19X|8@U<zyDYNdjEf4|7-tz|Je",
    ),
    "1.2.840.10008.1.2.4.90": (
        16,
        "|4;u>04V?f0000G0000G00000000000000G0000G0000000000009pH0sm3}3;+NC0RRI81ONg5TmTI~fQX2Yh=`Dgh>-te04e|h0000"
        "000000000000000000000000000000000000000000094x015yA0000@00IA#-}sPF2Z2{vI30aqr$4|0>H~lS=LQV|5eq$szyb4xfC2"
        "IZ03sR)U4H|A-Cw`}`2s)yd?Elgp_$J;rZivw*#H",
    ),
    "1.2.840.10008.1.2.4.91": (
        16,
        "|4;u>04V?f0000G0000G00000000000000G0000G0000000000009pH0sm3}3;+NC0RRI81ONg5TmTI~fQX2Yh=`Dgh>-te04e|h0000"
        "000000000000000000000000000000000000000000094x015yA0000@00IA#-}sPF2Z2{vI30aqr$4|0>H~lS=LQV|5eq$szyb4xfC2"
        "IZ03sR)U4H|A-Cw`}`2s)yd?Elgp_$J;rZivw*#H",
    ),
}

FRAGMENTS = {syntax: (bits, b85decode(frame)) for syntax, (bits, frame) in _ENCODED.items()}
