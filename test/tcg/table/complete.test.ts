/** Every instruction of the features that a CPU may advertise is in the table, and only there with its feature. */
import { describe, expect, test } from 'vitest';
import { Decoder } from '../../../src/tcg/decode/decoder.ts';
import { INSTRUCTIONS } from '../../../src/tcg/table/index.ts';
import { assemble } from '../../support/assemble.ts';

/** Mnemonics that take two vector registers, and further instructions with their operands. */
const FEATURES: Readonly<Record<string, { pairs?: string; others?: string }>> = {
  mmx: {
    others: `emms; movd mm0, eax; movd eax, mm0; movq mm0, rax; movq mm0, mm1; movq [rax], mm1; psllw mm0, 1; pslld mm0, 1;
      psllq mm0, 1; psrlw mm0, 1; psrld mm0, 1; psrlq mm0, 1; psraw mm0, 1; psrad mm0, 1`,
    pairs: `mm: packssdw packsswb packuswb paddb paddd paddsb paddsw paddusb paddusw paddw pand pandn pcmpeqb pcmpeqd pcmpeqw
      pcmpgtb pcmpgtd pcmpgtw pmaddwd pmulhw pmullw por pslld psllq psllw psrad psraw psrld psrlq psrlw psubb psubd psubsb
      psubsw psubusb psubusw psubw punpckhbw punpckhdq punpckhwd punpcklbw punpckldq punpcklwd pxor`,
  },
  sse: {
    pairs: 'mm: pavgb pavgw pmaxsw pmaxub pminsw pminub pmulhuw psadbw maskmovq',
    others: `pextrw eax, mm0, 1; pinsrw mm0, eax, 1; pmovmskb eax, mm0; pshufw mm0, mm1, 1; movntq [rax], mm0;
      cvtpi2ps xmm0, mm0; cvtps2pi mm0, xmm0; cvttps2pi mm0, xmm0`,
  },
  sse2: {
    pairs: `addpd addps addsd addss andnpd andnps andpd andps cmpeqpd cmpeqps cmpeqsd cmpeqss comisd comiss cvtdq2pd cvtdq2ps
      cvtpd2dq cvtpd2ps cvtps2dq cvtps2pd cvtsd2ss cvtss2sd cvttpd2dq cvttps2dq divpd divps divsd divss maskmovdqu maxpd
      maxps maxsd maxss minpd minps minsd minss movapd movaps movdqa movdqu movhlps movlhps movq movsd movss movupd movups
      mulpd mulps mulsd mulss orpd orps packssdw packsswb packuswb paddb paddd paddq paddsb paddsw paddusb paddusw paddw
      pand pandn pavgb pavgw pcmpeqb pcmpeqd pcmpeqw pcmpgtb pcmpgtd pcmpgtw pmaddwd pmaxsw pmaxub pminsw pminub pmulhuw
      pmulhw pmullw pmuludq por psadbw pslld psllq psllw psrad psraw psrld psrlq psrlw psubb psubd psubq psubsb psubsw
      psubusb psubusw psubw punpckhbw punpckhdq punpckhqdq punpckhwd punpcklbw punpckldq punpcklqdq punpcklwd pxor rcpps
      rcpss rsqrtps rsqrtss sqrtpd sqrtps sqrtsd sqrtss subpd subps subsd subss ucomisd ucomiss unpckhpd unpckhps unpcklpd
      unpcklps xorpd xorps mm: paddq psubq pmuludq`,
    others: `cvtsi2sd xmm0, rax; cvtsi2ss xmm0, eax; cvtsd2si eax, xmm0; cvtss2si rax, xmm0; cvttsd2si rax, xmm0;
      cvttss2si eax, xmm0; ldmxcsr [rax]; stmxcsr [rax]; movd xmm0, eax; movq rax, xmm0; movhpd xmm0, [rax]; movhps [rax], xmm0;
      movlpd xmm0, [rax]; movlps [rax], xmm0; movmskpd eax, xmm0; movmskps eax, xmm0; pmovmskb eax, xmm0; movntdq [rax], xmm0;
      movntpd [rax], xmm0; movntps [rax], xmm0; movnti [rax], rax; pextrw eax, xmm0, 1; pinsrw xmm0, eax, 1;
      pshufd xmm0, xmm1, 1; pshufhw xmm0, xmm1, 1; pshuflw xmm0, xmm1, 1; shufpd xmm0, xmm1, 1; shufps xmm0, xmm1, 1;
      pslldq xmm0, 1; psrldq xmm0, 1; psllw xmm0, 1; psrad xmm0, 1; psrlq xmm0, 1; movq2dq xmm0, mm0; movdq2q mm0, xmm0;
      cvtpi2pd xmm0, mm0; cvtpd2pi mm0, xmm0; cvttpd2pi mm0, xmm0`,
  },
  sse3: {
    pairs: 'addsubpd addsubps haddpd haddps hsubpd hsubps movddup movshdup movsldup',
    others: 'lddqu xmm0, [rax]',
  },
  ssse3: {
    pairs: `pabsb pabsd pabsw phaddd phaddsw phaddw phsubd phsubsw phsubw pmaddubsw pmulhrsw pshufb psignb psignd psignw
      mm: pabsb pabsd pabsw phaddd phaddsw phaddw phsubd phsubsw phsubw pmaddubsw pmulhrsw pshufb psignb psignd psignw`,
    others: 'palignr xmm0, xmm1, 1; palignr mm0, mm1, 1',
  },
  sse4_1: {
    pairs: `packusdw pcmpeqq phminposuw pmaxsb pmaxsd pmaxud pmaxuw pminsb pminsd pminud pminuw pmovsxbd pmovsxbq pmovsxbw
      pmovsxdq pmovsxwd pmovsxwq pmovzxbd pmovzxbq pmovzxbw pmovzxdq pmovzxwd pmovzxwq pmuldq pmulld ptest`,
    others: `blendpd xmm0, xmm1, 1; blendps xmm0, xmm1, 1; blendvpd xmm2, xmm1; blendvps xmm2, xmm1; pblendvb xmm2, xmm1;
      pblendw xmm0, xmm1, 1; dppd xmm0, xmm1, 1; dpps xmm0, xmm1, 1; extractps eax, xmm0, 1; insertps xmm0, xmm1, 1;
      movntdqa xmm0, [rax]; mpsadbw xmm0, xmm1, 1; pextrb eax, xmm0, 1; pextrd eax, xmm0, 1; pextrq rax, xmm0, 1;
      pextrw [rax], xmm0, 1; pinsrb xmm0, eax, 1; pinsrd xmm0, eax, 1; pinsrq xmm0, rax, 1; roundpd xmm0, xmm1, 1;
      roundps xmm0, xmm1, 1; roundsd xmm0, xmm1, 1; roundss xmm0, xmm1, 1`,
  },
  sse4_2: {
    pairs: 'pcmpgtq',
    others: `pcmpestri xmm0, xmm1, 1; pcmpestrm xmm0, xmm1, 1; pcmpistri xmm0, xmm1, 1; pcmpistrm xmm0, xmm1, 1;
      crc32 eax, bl; crc32 rax, rbx`,
  },
  aes: { pairs: 'aesdec aesdeclast aesenc aesenclast aesimc', others: 'aeskeygenassist xmm0, xmm1, 1' },
  pclmulqdq: { others: 'pclmulqdq xmm0, xmm1, 1' },
  sha_ni: {
    pairs: 'sha1msg1 sha1msg2 sha1nexte sha256msg1 sha256msg2',
    others: 'sha1rnds4 xmm0, xmm1, 1; sha256rnds2 xmm2, xmm1',
  },
  bmi1: { others: 'andn eax, ebx, ecx; bextr eax, ebx, ecx; blsi eax, ebx; blsmsk rax, rbx; blsr eax, ebx' },
  bmi2: {
    others: `bzhi eax, ebx, ecx; mulx rax, rbx, rcx; pdep eax, ebx, ecx; pext eax, ebx, ecx; rorx eax, ebx, 1; sarx eax, ebx, ecx;
      shlx eax, ebx, ecx; shrx eax, ebx, ecx`,
  },
  popcnt: { others: 'popcnt eax, ebx' },
  movbe: { others: 'movbe eax, [rbx]; movbe [rbx], rax' },
  adx: { others: 'adcx eax, ebx; adox rax, rbx' },
  cx16: { others: 'cmpxchg16b [rax]; lock cmpxchg16b [rax]' },
  fxsr: { others: 'fxsave [rax]; fxsave64 [rax]; fxrstor [rax]; fxrstor64 [rax]' },
  xsave: { others: 'xsave [rax]; xsave64 [rax]; xrstor [rax]; xrstor64 [rax]; xgetbv; xsetbv' },
  xsaveopt: { others: 'xsaveopt [rax]; xsaveopt64 [rax]' },
  rdrand: { others: 'rdrand ax; rdrand rax' },
  rdseed: { others: 'rdseed ax; rdseed rax' },
  rdpid: { others: 'rdpid rax' },
  fsgsbase: { others: 'rdfsbase rax; rdgsbase eax; wrfsbase rax; wrgsbase eax' },
  smap: { others: 'clac; stac' },
  clflush: { others: 'clflush [rax]' },
  clflushopt: { others: 'clflushopt [rax]' },
  clwb: { others: 'clwb [rax]' },
  rdtscp: { others: 'rdtscp' },
  lahf_lm: { others: 'lahf; sahf' },
};

/** The source's lines: pairs with registers of the file last named. */
function linesOf({ pairs = '', others = '' }: { pairs?: string; others?: string }): string[] {
  let file = 'xmm';
  const lines: string[] = [];
  for (const word of pairs.split(/\s+/).filter((w) => w !== '')) {
    if (word.endsWith(':')) file = word.slice(0, -1);
    else lines.push(`${word} ${file}0, ${file}1`);
  }
  return [...lines, ...others.split(';').map((line) => line.trim())].filter((line) => line !== '');
}

describe.each(Object.entries(FEATURES))('%s', (feature, instructions) => {
  const lines = linesOf(instructions);
  // Instructions start at multiples of 16.
  const code = assemble(lines.map((line) => `.balign 16, 0x90\n${line}`).join('\n'));
  const decoded = (hasFeature: (name: string) => boolean) => {
    const decoder = new Decoder(INSTRUCTIONS, hasFeature);
    return lines.filter((_, i) => {
      const bytes = new Uint8Array(32);
      bytes.set(code.subarray(i * 16, i * 16 + 16));
      return decoder.decode(bytes, 0, 16, 64) > 0;
    });
  };

  test('is complete', () => {
    expect(decoded(() => true)).toEqual(lines);
  });

  test('is not there when it is not advertised', () => {
    expect(decoded((name) => name !== feature)).toEqual([]);
  });
});
